-- All-time ratings of each video: how many, and their average, above 5 counting as 5.
SELECT model_id AS video_id, COUNT(*) AS ratings, AVG(CASE WHEN value > 5 THEN 5 ELSE value END) AS average
FROM team_feedbacks
WHERE type = 'ranking_resume' AND value > 0
GROUP BY model_id
