-- Accepted matches.
SELECT user_id, model_id AS item_id, 4 AS weight, CAST(created_at AS CHAR) AS happened_at
FROM matches
WHERE status = 'accepted' AND user_id IS NOT NULL AND (created_at >= :interactions_since OR created_at < :zero_date)
