-- What one user or several interacted with within the windows, the latest of each kind. As interactions_*.sql, but for
-- weights, which the ranking does not use, and zero dates, which are read there to be counted. Type and status in
-- COALESCE: else a server takes the index that begins with them, and reads all users' of the window for a few of them.
SELECT r.user_id, r.item_id, r.happened_at, 0 AS is_challenge
FROM (SELECT user_id, model_id AS item_id, CAST(created_at AS CHAR) AS happened_at
      FROM team_feedbacks
      WHERE user_id IN (:user_id) AND COALESCE(type, '') = 'ranking_resume' AND value > 0
        AND created_at >= :interactions_since
      ORDER BY created_at DESC LIMIT :most) r
UNION ALL
SELECT m.user_id, m.item_id, m.happened_at, 0
FROM (SELECT user_id, model_id AS item_id, CAST(created_at AS CHAR) AS happened_at
      FROM matches
      WHERE user_id IN (:user_id) AND COALESCE(status, '') = 'accepted' AND created_at >= :interactions_since
      ORDER BY created_at DESC LIMIT :most) m
UNION ALL
SELECT s.user_id, s.item_id, s.happened_at, 0
FROM (SELECT user_id, model_id AS item_id, CAST(created_at AS CHAR) AS happened_at
      FROM likes
      WHERE user_id IN (:user_id) AND COALESCE(type, '') = 'save' AND created_at >= :interactions_since
      ORDER BY created_at DESC LIMIT :most) s
UNION ALL
SELECT v.user_id, v.item_id, v.happened_at, v.is_challenge
FROM (SELECT causer_id AS user_id, subject_id AS item_id, CAST(created_at AS CHAR) AS happened_at,
             CASE WHEN subject_type LIKE '%Challenge%' THEN 1 ELSE 0 END AS is_challenge
      FROM activity_log
      WHERE causer_id IN (:user_id) AND created_at >= :views_since AND subject_id IS NOT NULL
        AND description LIKE '%video%' AND description LIKE '%view%'
        AND COALESCE(CASE WHEN LENGTH(properties) - LENGTH(REPLACE(REPLACE(properties, '[', ''), '{', '')) <= 100
                                AND JSON_VALID(properties) THEN CAST(JSON_EXTRACT(properties, '$.event') AS CHAR) END, '')
            NOT IN ('"impression"', '"skip"', '"hide"', 'impression', 'skip', 'hide')
      ORDER BY created_at DESC LIMIT :most) v
