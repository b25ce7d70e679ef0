-- Résumé videos that may be eligible; the blacklist, the test rule and what needs a look at the values
-- are applied by the catalog's builder, and what is dirty is read to be counted.
SELECT r.id, r.user_id AS creator_id, u.id AS creator_row, u.name AS creator_name, u.city, u.country,
       r.video, r.image, r.description, r.skills, r.knowledges, r.tools, r.languages, r.role_objectives,
       CAST(r.created_at AS CHAR) AS created_at
FROM resumes r
LEFT JOIN users u ON u.id = r.user_id
WHERE r.status = 'send'
  AND r.video IS NOT NULL
  AND (r.created_at >= :videos_since OR r.created_at < :zero_date)
  AND (r.deleted_at IS NULL OR r.deleted_at < :zero_date)
  AND (u.deleted_at IS NULL OR u.deleted_at < :zero_date)
