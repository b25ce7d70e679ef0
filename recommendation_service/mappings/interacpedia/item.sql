-- One item's row with the rules that the other queries keep rows out by: for whoever misses it. By primary keys alone.
SELECT 0 AS is_challenge, r.status,
       CASE WHEN r.status = 'send' THEN 1 ELSE 0 END AS is_published,
       CASE WHEN r.video IS NULL THEN 0 ELSE 1 END AS has_video,
       CASE WHEN r.created_at IS NULL THEN 0 ELSE 1 END AS has_time,
       CASE WHEN r.created_at >= :videos_since OR r.created_at < :zero_date THEN 1 ELSE 0 END AS is_recent,
       CASE WHEN r.deleted_at IS NULL OR r.deleted_at < :zero_date THEN 0 ELSE 1 END AS is_deleted,
       CASE WHEN u.deleted_at IS NULL OR u.deleted_at < :zero_date THEN 0 ELSE 1 END AS creator_is_deleted
FROM resumes r
LEFT JOIN users u ON u.id = r.user_id
WHERE r.id = :item_id
UNION ALL
SELECT 1, c.status,
       CASE WHEN c.status = 'published' THEN 1 ELSE 0 END,
       CASE WHEN c.video IS NULL THEN 0 ELSE 1 END,
       CASE WHEN c.created_at IS NULL AND c.updated_at IS NULL THEN 0 ELSE 1 END,
       CASE WHEN c.created_at >= :challenges_since OR c.updated_at >= :challenges_since
                 OR c.created_at < :zero_date OR c.updated_at < :zero_date THEN 1 ELSE 0 END,
       CASE WHEN c.deleted_at IS NULL OR c.deleted_at < :zero_date THEN 0 ELSE 1 END,
       CASE WHEN u.deleted_at IS NULL OR u.deleted_at < :zero_date THEN 0 ELSE 1 END
FROM challenges c
LEFT JOIN users u ON u.id = c.user_id
WHERE c.id = :item_id
