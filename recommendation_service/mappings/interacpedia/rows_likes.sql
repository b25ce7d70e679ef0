-- Likes and saves after one of them, as rewards: what each says is its type.
-- Read by the primary key alone, which every table has; and the table's last id, in a row that is always there.
SELECT newest.id AS last_id, r.id, r.user_id, r.item_id, r.is_challenge, r.says, r.value, r.happened_at
FROM (SELECT MAX(id) AS id FROM likes) newest
LEFT JOIN (
  SELECT id, user_id, model_id AS item_id, 0 AS is_challenge, type AS says, NULL AS value,
         CAST(created_at AS CHAR) AS happened_at
  FROM likes
  WHERE id > :after
  ORDER BY id LIMIT :most) r ON 1 = 1
