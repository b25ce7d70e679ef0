-- One row that differs whenever something changed that a catalog is made of. A time in the future would hide
-- every later one, so the latest of a column is the latest up to now; those beyond now, which are few, are summed up
-- instead, and so an update by a clock that is ahead is seen when it is made. What is deleted in the middle of the
-- tables that only grow (views, resumes_exhibited, activity_log) is seen at the next rebuild that age brings.
SELECT
  (SELECT COUNT(*) FROM resumes) AS resumes_count,
  (SELECT MAX(id) FROM resumes) AS resumes_last,
  (SELECT MAX(updated_at) FROM resumes WHERE updated_at <= :now) AS resumes_updated,
  (SELECT SUM(CRC32(updated_at)) FROM resumes WHERE updated_at > :now) AS resumes_ahead,
  (SELECT COUNT(*) FROM resumes WHERE deleted_at IS NULL OR deleted_at < :zero_date) AS resumes_kept,
  (SELECT COUNT(*) FROM resumes WHERE status = 'send') AS resumes_sent,
  (SELECT COUNT(*) FROM challenges) AS challenges_count,
  (SELECT MAX(updated_at) FROM challenges WHERE updated_at <= :now) AS challenges_updated,
  (SELECT SUM(CRC32(updated_at)) FROM challenges WHERE updated_at > :now) AS challenges_ahead,
  (SELECT COUNT(*) FROM challenges
   WHERE (deleted_at IS NULL OR deleted_at < :zero_date) AND status = 'published') AS challenges_published,
  (SELECT MAX(id) FROM users) AS users_last,
  (SELECT MAX(updated_at) FROM users WHERE updated_at <= :now) AS users_updated,
  (SELECT SUM(CRC32(updated_at)) FROM users WHERE updated_at > :now) AS users_ahead,
  (SELECT MAX(deleted_at) FROM users WHERE deleted_at <= :now) AS users_deleted,
  (SELECT SUM(CRC32(deleted_at)) FROM users WHERE deleted_at > :now) AS users_deleted_ahead,
  p.users AS profiles_users, p.skills AS profiles_skills, p.knowledges AS profiles_knowledges,
  p.tools AS profiles_tools, p.languages AS profiles_languages,
  (SELECT SUM(id) FROM team_feedbacks WHERE type = 'ranking_resume') AS ratings_ids,
  (SELECT SUM(value) FROM team_feedbacks WHERE type = 'ranking_resume') AS ratings_sum,
  (SELECT SUM(id) FROM matches WHERE status = 'accepted') AS matches_ids,
  (SELECT SUM(id) FROM likes WHERE type = 'save') AS saves_ids,
  (SELECT SUM(id) FROM user_connections WHERE status = 'accepted') AS connections_ids,
  (SELECT MAX(id) FROM views) AS views_last,
  (SELECT MAX(id) FROM resumes_exhibited) AS exhibited_last,
  (SELECT MAX(id) FROM activity_log) AS activity_last
FROM (
  SELECT SUM(user_id) AS users, SUM(CRC32(skills)) AS skills, SUM(CRC32(knowledge)) AS knowledges,
         SUM(CRC32(tools)) AS tools, SUM(CRC32(languages)) AS languages
  FROM profiles) p
