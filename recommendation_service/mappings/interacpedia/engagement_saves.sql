-- All-time saves of each video.
SELECT model_id AS video_id, COUNT(*) AS saves
FROM likes
WHERE type = 'save'
GROUP BY model_id
