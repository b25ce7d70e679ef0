-- Saved videos.
SELECT user_id, model_id AS item_id, 3 AS weight, CAST(created_at AS CHAR) AS happened_at
FROM likes
WHERE type = 'save' AND user_id IS NOT NULL AND (created_at >= :interactions_since OR created_at < :zero_date)
