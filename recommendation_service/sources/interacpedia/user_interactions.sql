-- What one user interacted with within the windows, the latest of each kind. As interactions_*.sql, but for weights,
-- which the ranking does not use, and zero dates, which are read there to be counted.
SELECT r.item_id, r.happened_at, 0 AS is_challenge
FROM (SELECT model_id AS item_id, CAST(created_at AS CHAR) AS happened_at
      FROM team_feedbacks
      WHERE user_id = :user_id AND type = 'ranking_resume' AND value > 0 AND created_at >= :interactions_since
      ORDER BY created_at DESC LIMIT :most) r
UNION ALL
SELECT m.item_id, m.happened_at, 0
FROM (SELECT model_id AS item_id, CAST(created_at AS CHAR) AS happened_at
      FROM matches
      WHERE user_id = :user_id AND status = 'accepted' AND created_at >= :interactions_since
      ORDER BY created_at DESC LIMIT :most) m
UNION ALL
SELECT s.item_id, s.happened_at, 0
FROM (SELECT model_id AS item_id, CAST(created_at AS CHAR) AS happened_at
      FROM likes
      WHERE user_id = :user_id AND type = 'save' AND created_at >= :interactions_since
      ORDER BY created_at DESC LIMIT :most) s
UNION ALL
SELECT v.item_id, v.happened_at, v.is_challenge
FROM (SELECT subject_id AS item_id, CAST(created_at AS CHAR) AS happened_at,
             CASE WHEN subject_type LIKE '%Challenge%' THEN 1 ELSE 0 END AS is_challenge
      FROM activity_log
      WHERE causer_id = :user_id AND created_at >= :views_since AND subject_id IS NOT NULL
        AND description LIKE '%video%' AND description LIKE '%view%'
        AND COALESCE(CASE WHEN LENGTH(properties) - LENGTH(REPLACE(REPLACE(properties, '[', ''), '{', '')) <= 100
                                AND JSON_VALID(properties) THEN CAST(JSON_EXTRACT(properties, '$.event') AS CHAR) END, '')
            NOT IN ('"impression"', '"skip"', '"hide"', 'impression', 'skip', 'hide')
      ORDER BY created_at DESC LIMIT :most) v
