-- Who one user or several are connected to; connections hold in both directions.
SELECT o.user_id, o.other_id, o.created_at
FROM (SELECT from_id AS user_id, to_id AS other_id, CAST(created_at AS CHAR) AS created_at
      FROM user_connections
      WHERE from_id IN (:user_id) AND status = 'accepted' AND created_at >= :connections_since
      ORDER BY created_at DESC LIMIT :most) o
UNION ALL
SELECT i.user_id, i.other_id, i.created_at
FROM (SELECT to_id AS user_id, from_id AS other_id, CAST(created_at AS CHAR) AS created_at
      FROM user_connections
      WHERE to_id IN (:user_id) AND status = 'accepted' AND created_at >= :connections_since
      ORDER BY created_at DESC LIMIT :most) i
