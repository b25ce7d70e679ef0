-- Who one user is connected to; connections hold in both directions.
SELECT o.other_id, o.created_at
FROM (SELECT to_id AS other_id, CAST(created_at AS CHAR) AS created_at
      FROM user_connections
      WHERE from_id = :user_id AND status = 'accepted' AND created_at >= :connections_since
      ORDER BY created_at DESC LIMIT :most) o
UNION ALL
SELECT i.other_id, i.created_at
FROM (SELECT from_id AS other_id, CAST(created_at AS CHAR) AS created_at
      FROM user_connections
      WHERE to_id = :user_id AND status = 'accepted' AND created_at >= :connections_since
      ORDER BY created_at DESC LIMIT :most) i
