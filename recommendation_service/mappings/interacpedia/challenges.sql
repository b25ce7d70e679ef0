-- Challenges that may be eligible.
SELECT c.id, c.user_id AS creator_id, u.id AS creator_row, u.name AS creator_name, u.city, u.country,
       c.name, c.slug, c.description, c.video, c.image, c.talent_type, c.interest_areas, c.type_objectives,
       CAST(c.status_at AS CHAR) AS status_at,
       CAST(c.created_at AS CHAR) AS created_at,
       CAST(c.updated_at AS CHAR) AS updated_at
FROM challenges c
LEFT JOIN users u ON u.id = c.user_id
WHERE c.status = 'published'
  AND c.video IS NOT NULL
  AND (c.created_at >= :challenges_since OR c.updated_at >= :challenges_since
       OR c.created_at < :zero_date OR c.updated_at < :zero_date)
  AND (c.deleted_at IS NULL OR c.deleted_at < :zero_date)
  AND (u.deleted_at IS NULL OR u.deleted_at < :zero_date)
