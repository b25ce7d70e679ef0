-- Views of the activity log after one of its rows, as rewards: each says view. The service's own rows, which bear an
-- event and its id, say nothing: what they tell was learned from the log already. That is told by the values, and only of
-- what is JSON, as in interactions_views.sql.
-- Read by the primary key alone, which every table has; and the table's last id, in a row that is always there.
SELECT newest.id AS last_id, r.id, r.user_id, r.item_id, r.is_challenge,
       CASE WHEN r.is_view = 1
                 AND (JSON_EXTRACT(r.told, '$.event') IS NULL OR JSON_EXTRACT(r.told, '$.event_id') IS NULL)
                 AND COALESCE(CAST(JSON_EXTRACT(r.told, '$.event') AS CHAR), '')
                     NOT IN ('"impression"', '"skip"', '"hide"', 'impression', 'skip', 'hide')
            THEN 'view' END AS says,
       NULL AS value, r.happened_at
FROM (SELECT MAX(id) AS id FROM activity_log) newest
LEFT JOIN (
  SELECT id, causer_id AS user_id, subject_id AS item_id,
         CASE WHEN subject_type LIKE '%Challenge%' THEN 1 ELSE 0 END AS is_challenge,
         CASE WHEN description LIKE '%video%' AND description LIKE '%view%' THEN 1 ELSE 0 END AS is_view,
         CASE WHEN LENGTH(properties) - LENGTH(REPLACE(REPLACE(properties, '[', ''), '{', '')) <= 100
                   AND JSON_VALID(properties) THEN properties END AS told,
         CAST(created_at AS CHAR) AS happened_at
  FROM activity_log
  WHERE id > :after
  ORDER BY id LIMIT :most) r ON 1 = 1
