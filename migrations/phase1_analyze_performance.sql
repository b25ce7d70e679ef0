-- What the source queries cost here: settings, sizes, use of the indices, and the plan of every query. Changes nothing.
--
--   mysql --protocol=tcp -h HOST -P PORT -u USER -p interacpedia < migrations/phase1_analyze_performance.sql
-- (Debian 13's client wants --skip-ssl-verify-server-cert where the server has no certificate that it knows.)
--
-- MySQL 5.7+ or MariaDB 10.2+, with SELECT on these tables; the use of indices also needs SELECT on one table of the
-- performance schema. Plans are estimates and run nothing; `recs doctor` measures the times. Run it before and after
-- phase1_create_indexes.sql and compare: `type` ALL with many `rows` reads a whole table, `key` names the index used.
-- The mariadb client takes the hints for MySQL out of two queries, unless told --comments.

-- For this session only. Names compare whatever the client speaks; quotes mean what they mean below; and a table whose
-- dates default to zero can be indexed under a strict server.
SET NAMES utf8mb4;
SET SESSION sql_mode = '';
SET SESSION time_zone = '+00:00';
-- Without a database there is nothing to look at: the client ends here with "No database selected".
SHOW TABLES LIKE 'phase 1';

-- What the server writes down of slow queries, and what it allows.
SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'slow_query_log', 'slow_query_log_file', 'long_query_time',
  'log_queries_not_using_indexes', 'log_output', 'min_examined_row_limit', 'performance_schema', 'max_connections',
  'wait_timeout', 'innodb_buffer_pool_size');
SHOW GLOBAL STATUS WHERE Variable_name IN ('Slow_queries', 'Threads_connected', 'Max_used_connections', 'Select_scan',
  'Select_full_join', 'Sort_merge_passes', 'Uptime');

-- Sizes; rows are the server's estimate. MySQL counts new indices in after an ANALYZE TABLE of an administrator.
SELECT t.table_name AS `table`, t.engine AS engine, t.row_format AS row_format, t.table_rows AS `rows`,
       ROUND(t.data_length / 1048576, 1) AS data_mib, ROUND(t.index_length / 1048576, 1) AS index_mib
FROM information_schema.tables t
WHERE t.table_schema = DATABASE() AND t.table_name IN (
    'activity_log', 'challenges', 'likes', 'matches', 'profiles', 'resumes',
    'resumes_exhibited', 'team_feedbacks', 'user_connections', 'users', 'views')
ORDER BY t.data_length + t.index_length DESC;

-- How often each index was used since the server started; an index that is never read only costs.
SET @readable = (
  SELECT COUNT(*) FROM information_schema.tables
  WHERE table_schema = 'performance_schema' AND table_name = 'table_io_waits_summary_by_index_usage');
SET @use = IF(@readable AND @@performance_schema,
  'SELECT object_name AS `table`, index_name AS `index`, count_read AS `reads`, count_write AS `writes`,
          ROUND(sum_timer_wait / 1000000000, 1) AS milliseconds
   FROM performance_schema.table_io_waits_summary_by_index_usage
   WHERE object_schema = DATABASE() AND index_name IS NOT NULL AND (LEFT(index_name, 5) = "recs_" OR count_read > 0)
   ORDER BY object_name, index_name',
  IF(@@performance_schema,
     'SELECT "not readable: GRANT SELECT ON performance_schema.table_io_waits_summary_by_index_usage TO this user" AS `use of indices`',
     'SELECT "not counted: the server runs without performance_schema" AS `use of indices`'));
PREPARE index_use FROM @use; EXECUTE index_use;

-- The plans, as a table: MySQL 9 draws a tree unless asked. Parameters are as at a rebuild now, with the windows'
-- defaults; one user is whoever was active last.
SET @now = UTC_TIMESTAMP(), @users_since = UTC_TIMESTAMP() - INTERVAL 90 DAY,
    @videos_since = UTC_TIMESTAMP() - INTERVAL 360 DAY, @challenges_since = UTC_TIMESTAMP() - INTERVAL 90 DAY,
    @interactions_since = UTC_TIMESTAMP() - INTERVAL 90 DAY, @views_since = UTC_TIMESTAMP() - INTERVAL 30 DAY,
    @connections_since = UTC_TIMESTAMP() - INTERVAL 90 DAY, @zero_date = '1970-01-02 00:00:00',
    @resume_model_type = CONCAT_WS(CHAR(92 USING utf8mb4), 'App', 'Interacpedia', 'Resumes', 'Resume'),
    @user_id = (SELECT causer_id FROM activity_log WHERE causer_id IS NOT NULL ORDER BY id DESC LIMIT 1);

SELECT 'users.sql' AS query, '100 ms' AS target;
EXPLAIN FORMAT=TRADITIONAL
SELECT /*+ INDEX_MERGE(u) */ u.id, p.skills, p.knowledge AS knowledges, p.tools, p.languages,
       CAST(u.created_at AS CHAR) AS created_at, CAST(u.updated_at AS CHAR) AS updated_at
FROM users u
LEFT JOIN profiles p ON p.user_id = u.id
WHERE (u.deleted_at IS NULL OR u.deleted_at < @zero_date)
  AND (u.created_at >= @users_since OR u.updated_at >= @users_since
       OR u.created_at < @zero_date OR u.updated_at < @zero_date);

SELECT 'videos.sql' AS query, '80 ms' AS target;
EXPLAIN FORMAT=TRADITIONAL
SELECT r.id, r.user_id AS creator_id, u.id AS creator_row, u.name AS creator_name, u.city, u.country,
       r.video, r.image, r.description, r.skills, r.knowledges, r.tools, r.languages, r.role_objectives,
       CAST(r.created_at AS CHAR) AS created_at
FROM resumes r
LEFT JOIN users u ON u.id = r.user_id
WHERE r.status = 'send'
  AND r.video IS NOT NULL
  AND (r.created_at >= @videos_since OR r.created_at < @zero_date)
  AND (r.deleted_at IS NULL OR r.deleted_at < @zero_date)
  AND (u.deleted_at IS NULL OR u.deleted_at < @zero_date);

SELECT 'engagement_views.sql' AS query, '70 ms' AS target;
EXPLAIN FORMAT=TRADITIONAL
SELECT model_id AS video_id, COUNT(*) AS views
FROM views
WHERE model_type = @resume_model_type
GROUP BY model_id;

SELECT 'challenges.sql' AS query, 'none' AS target;
EXPLAIN FORMAT=TRADITIONAL
SELECT c.id, c.user_id AS creator_id, u.id AS creator_row, u.name AS creator_name, u.city, u.country,
       c.name, c.slug, c.description, c.video, c.image, c.talent_type, c.interest_areas, c.type_objectives,
       CAST(c.status_at AS CHAR) AS status_at,
       CAST(c.created_at AS CHAR) AS created_at,
       CAST(c.updated_at AS CHAR) AS updated_at
FROM challenges c
LEFT JOIN users u ON u.id = c.user_id
WHERE c.status = 'published'
  AND c.video IS NOT NULL
  AND (c.created_at >= @challenges_since OR c.updated_at >= @challenges_since
       OR c.created_at < @zero_date OR c.updated_at < @zero_date)
  AND (c.deleted_at IS NULL OR c.deleted_at < @zero_date)
  AND (u.deleted_at IS NULL OR u.deleted_at < @zero_date);

SELECT 'changes.sql' AS query, 'none' AS target;
EXPLAIN FORMAT=TRADITIONAL
SELECT
  (SELECT COUNT(*) FROM resumes) AS resumes_count,
  (SELECT MAX(id) FROM resumes) AS resumes_last,
  (SELECT MAX(updated_at) FROM resumes WHERE updated_at <= @now) AS resumes_updated,
  (SELECT SUM(CRC32(updated_at)) FROM resumes WHERE updated_at > @now) AS resumes_ahead,
  (SELECT COUNT(*) FROM resumes WHERE deleted_at IS NULL OR deleted_at < @zero_date) AS resumes_kept,
  (SELECT COUNT(*) FROM resumes WHERE status = 'send') AS resumes_sent,
  (SELECT COUNT(*) FROM challenges) AS challenges_count,
  (SELECT MAX(updated_at) FROM challenges WHERE updated_at <= @now) AS challenges_updated,
  (SELECT SUM(CRC32(updated_at)) FROM challenges WHERE updated_at > @now) AS challenges_ahead,
  (SELECT COUNT(*) FROM challenges
   WHERE (deleted_at IS NULL OR deleted_at < @zero_date) AND status = 'published') AS challenges_published,
  (SELECT MAX(id) FROM users) AS users_last,
  (SELECT MAX(updated_at) FROM users WHERE updated_at <= @now) AS users_updated,
  (SELECT SUM(CRC32(updated_at)) FROM users WHERE updated_at > @now) AS users_ahead,
  (SELECT MAX(deleted_at) FROM users WHERE deleted_at <= @now) AS users_deleted,
  (SELECT SUM(CRC32(deleted_at)) FROM users WHERE deleted_at > @now) AS users_deleted_ahead,
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
  FROM profiles) p;

SELECT 'connections.sql' AS query, 'none' AS target;
EXPLAIN FORMAT=TRADITIONAL
SELECT from_id, to_id, CAST(created_at AS CHAR) AS created_at
FROM user_connections
WHERE status = 'accepted' AND (created_at >= @connections_since OR created_at < @zero_date);

SELECT 'engagement_exhibitions.sql' AS query, 'none' AS target;
EXPLAIN FORMAT=TRADITIONAL
SELECT resume_id AS video_id, COUNT(*) AS exhibitions
FROM resumes_exhibited
GROUP BY resume_id;

SELECT 'engagement_matches.sql' AS query, 'none' AS target;
EXPLAIN FORMAT=TRADITIONAL
SELECT model_id AS video_id, COUNT(*) AS matches
FROM matches
WHERE status = 'accepted'
GROUP BY model_id;

SELECT 'engagement_ratings.sql' AS query, 'none' AS target;
EXPLAIN FORMAT=TRADITIONAL
SELECT model_id AS video_id, COUNT(*) AS ratings, AVG(CASE WHEN value > 5 THEN 5 ELSE value END) AS average
FROM team_feedbacks
WHERE type = 'ranking_resume' AND value > 0
GROUP BY model_id;

SELECT 'engagement_saves.sql' AS query, 'none' AS target;
EXPLAIN FORMAT=TRADITIONAL
SELECT model_id AS video_id, COUNT(*) AS saves
FROM likes
WHERE type = 'save'
GROUP BY model_id;

SELECT 'interactions_matches.sql' AS query, 'none' AS target;
EXPLAIN FORMAT=TRADITIONAL
SELECT user_id, model_id AS item_id, 4 AS weight, CAST(created_at AS CHAR) AS happened_at
FROM matches
WHERE status = 'accepted' AND user_id IS NOT NULL AND (created_at >= @interactions_since OR created_at < @zero_date);

SELECT 'interactions_ratings.sql' AS query, 'none' AS target;
EXPLAIN FORMAT=TRADITIONAL
SELECT user_id, model_id AS item_id, value AS weight,
       CAST(created_at AS CHAR) AS happened_at
FROM team_feedbacks
WHERE type = 'ranking_resume' AND value > 0 AND user_id IS NOT NULL AND (created_at >= @interactions_since OR created_at < @zero_date);

SELECT 'interactions_saves.sql' AS query, 'none' AS target;
EXPLAIN FORMAT=TRADITIONAL
SELECT user_id, model_id AS item_id, 3 AS weight, CAST(created_at AS CHAR) AS happened_at
FROM likes
WHERE type = 'save' AND user_id IS NOT NULL AND (created_at >= @interactions_since OR created_at < @zero_date);

SELECT 'interactions_views.sql' AS query, 'none' AS target;
EXPLAIN FORMAT=TRADITIONAL
SELECT /*+ JOIN_ORDER(recent, a) */
       a.causer_id AS user_id, a.subject_id AS item_id, 2 AS weight, CAST(a.created_at AS CHAR) AS happened_at,
       CASE WHEN a.subject_type LIKE '%Challenge%' THEN 1 ELSE 0 END AS is_challenge
FROM activity_log recent
JOIN activity_log a ON a.id = recent.id
WHERE (recent.created_at >= @views_since OR recent.created_at < @zero_date)
  AND a.description LIKE '%video%' AND a.description LIKE '%view%'
  AND a.causer_id IS NOT NULL AND a.subject_id IS NOT NULL
  AND COALESCE(CASE WHEN LENGTH(a.properties) - LENGTH(REPLACE(REPLACE(a.properties, '[', ''), '{', '')) <= 100
                          AND JSON_VALID(a.properties) THEN CAST(JSON_EXTRACT(a.properties, '$.event') AS CHAR) END, '')
      NOT IN ('"impression"', '"skip"', '"hide"', 'impression', 'skip', 'hide');

SELECT 'presence.sql' AS query, 'none' AS target;
EXPLAIN FORMAT=TRADITIONAL
SELECT r.id, 0 AS is_challenge
FROM resumes r
JOIN users u ON u.id = r.user_id
UNION ALL
SELECT c.id, 1
FROM challenges c
JOIN users u ON u.id = c.user_id;

SELECT 'user_facts.sql' AS query, 'none' AS target;
EXPLAIN FORMAT=TRADITIONAL
SELECT 'profile' AS part, u.id AS user_id, p.id AS number, NULL AS happened_at, 0 AS is_challenge,
       p.skills, p.knowledge AS knowledges, p.tools, p.languages
FROM users u
LEFT JOIN profiles p ON p.user_id = u.id
WHERE u.id IN (@user_id) AND (u.deleted_at IS NULL OR u.deleted_at < @zero_date)
UNION ALL
SELECT 'connected to', from_id, to_id, CAST(created_at AS CHAR), 0, NULL, NULL, NULL, NULL
FROM user_connections
WHERE from_id IN (@user_id) AND status = 'accepted' AND created_at >= @connections_since
UNION ALL
SELECT 'connected by', to_id, from_id, CAST(created_at AS CHAR), 0, NULL, NULL, NULL, NULL
FROM user_connections
WHERE to_id IN (@user_id) AND status = 'accepted' AND created_at >= @connections_since
UNION ALL
SELECT 'rating', user_id, model_id, CAST(created_at AS CHAR), 0, NULL, NULL, NULL, NULL
FROM team_feedbacks
WHERE user_id IN (@user_id) AND COALESCE(type, '') = 'ranking_resume' AND value > 0
  AND created_at >= @interactions_since
UNION ALL
SELECT 'match', user_id, model_id, CAST(created_at AS CHAR), 0, NULL, NULL, NULL, NULL
FROM matches
WHERE user_id IN (@user_id) AND COALESCE(status, '') = 'accepted' AND created_at >= @interactions_since
UNION ALL
SELECT 'save', user_id, model_id, CAST(created_at AS CHAR), 0, NULL, NULL, NULL, NULL
FROM likes
WHERE user_id IN (@user_id) AND COALESCE(type, '') = 'save' AND created_at >= @interactions_since
UNION ALL
SELECT 'view', causer_id, subject_id, CAST(created_at AS CHAR),
       CASE WHEN subject_type LIKE '%Challenge%' THEN 1 ELSE 0 END, NULL, NULL, NULL, NULL
FROM activity_log
WHERE causer_id IN (@user_id) AND created_at >= @views_since AND subject_id IS NOT NULL
  AND description LIKE '%video%' AND description LIKE '%view%'
  AND COALESCE(CASE WHEN LENGTH(properties) - LENGTH(REPLACE(REPLACE(properties, '[', ''), '{', '')) <= 100
                          AND JSON_VALID(properties) THEN CAST(JSON_EXTRACT(properties, '$.event') AS CHAR) END, '')
      NOT IN ('"impression"', '"skip"', '"hide"', 'impression', 'skip', 'hide');
