-- All-time accepted matches of each video.
SELECT model_id AS video_id, COUNT(*) AS matches
FROM matches
WHERE status = 'accepted'
GROUP BY model_id
