-- Views after one of them, as rewards: each of a video or a challenge says view.
-- Read by the primary key alone, which every table has; and the table's last id, in a row that is always there.
SELECT newest.id AS last_id, r.id, r.user_id, r.item_id, r.is_challenge, r.says, r.value, r.happened_at
FROM (SELECT MAX(id) AS id FROM views) newest
LEFT JOIN (
  SELECT id, user_id, model_id AS item_id,
         CASE WHEN model_type LIKE '%Challenge%' THEN 1 ELSE 0 END AS is_challenge,
         CASE WHEN model_type = :resume_model_type OR model_type LIKE '%Challenge%' THEN 'view' END AS says,
         NULL AS value, CAST(created_at AS CHAR) AS happened_at
  FROM views
  WHERE id > :after
  ORDER BY id LIMIT :most) r ON 1 = 1
