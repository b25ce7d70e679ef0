-- All-time exhibitions of each video.
SELECT resume_id AS video_id, COUNT(*) AS exhibitions
FROM resumes_exhibited
GROUP BY resume_id
