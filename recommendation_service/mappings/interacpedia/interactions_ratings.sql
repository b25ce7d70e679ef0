-- Ratings of résumé videos: the weight is the rating; the builder counts one above 5 as 5.
SELECT user_id, model_id AS item_id, value AS weight,
       CAST(created_at AS CHAR) AS happened_at
FROM team_feedbacks
WHERE type = 'ranking_resume' AND value > 0 AND user_id IS NOT NULL AND (created_at >= :interactions_since OR created_at < :zero_date)
