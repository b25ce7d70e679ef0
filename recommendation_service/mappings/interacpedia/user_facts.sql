-- What is known of one user or several, in one statement: profiles, and what they did within the windows. As users.sql,
-- connections.sql (in both directions) and interactions_*.sql, but for weights, which the ranking does not use, and zero
-- dates, which are read there to be counted. Nothing is sorted or cut here, which would cost a temporary table for each
-- part: the reader does that, and asks again for the latest of each part where there is too much (user_reader.py).
-- Type and status in COALESCE: else a server takes the index that begins with them, and reads all users' of the window
-- for a few of them.
SELECT 'profile' AS part, u.id AS user_id, p.id AS number, NULL AS happened_at, 0 AS is_challenge,
       p.skills, p.knowledge AS knowledges, p.tools, p.languages
FROM users u
LEFT JOIN profiles p ON p.user_id = u.id
WHERE u.id IN (:user_id) AND (u.deleted_at IS NULL OR u.deleted_at < :zero_date)
UNION ALL
SELECT 'connected to', from_id, to_id, CAST(created_at AS CHAR), 0, NULL, NULL, NULL, NULL
FROM user_connections
WHERE from_id IN (:user_id) AND status = 'accepted' AND created_at >= :connections_since
UNION ALL
SELECT 'connected by', to_id, from_id, CAST(created_at AS CHAR), 0, NULL, NULL, NULL, NULL
FROM user_connections
WHERE to_id IN (:user_id) AND status = 'accepted' AND created_at >= :connections_since
UNION ALL
SELECT 'rating', user_id, model_id, CAST(created_at AS CHAR), 0, NULL, NULL, NULL, NULL
FROM team_feedbacks
WHERE user_id IN (:user_id) AND COALESCE(type, '') = 'ranking_resume' AND value > 0
  AND created_at >= :interactions_since
UNION ALL
SELECT 'match', user_id, model_id, CAST(created_at AS CHAR), 0, NULL, NULL, NULL, NULL
FROM matches
WHERE user_id IN (:user_id) AND COALESCE(status, '') = 'accepted' AND created_at >= :interactions_since
UNION ALL
SELECT 'save', user_id, model_id, CAST(created_at AS CHAR), 0, NULL, NULL, NULL, NULL
FROM likes
WHERE user_id IN (:user_id) AND COALESCE(type, '') = 'save' AND created_at >= :interactions_since
UNION ALL
SELECT 'view', causer_id, subject_id, CAST(created_at AS CHAR),
       CASE WHEN subject_type LIKE '%Challenge%' THEN 1 ELSE 0 END, NULL, NULL, NULL, NULL
FROM activity_log
WHERE causer_id IN (:user_id) AND created_at >= :views_since AND subject_id IS NOT NULL
  AND description LIKE '%video%' AND description LIKE '%view%'
  AND COALESCE(CASE WHEN LENGTH(properties) - LENGTH(REPLACE(REPLACE(properties, '[', ''), '{', '')) <= 100
                          AND JSON_VALID(properties) THEN CAST(JSON_EXTRACT(properties, '$.event') AS CHAR) END, '')
      NOT IN ('"impression"', '"skip"', '"hide"', 'impression', 'skip', 'hide')
