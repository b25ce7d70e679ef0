-- All-time views of each video; the column resumes.views is stale and unused.
SELECT model_id AS video_id, COUNT(*) AS views
FROM views
WHERE model_type = :resume_model_type
GROUP BY model_id
