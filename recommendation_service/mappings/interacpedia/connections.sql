-- Accepted connections; they hold in both directions.
SELECT from_id, to_id, CAST(created_at AS CHAR) AS created_at
FROM user_connections
WHERE status = 'accepted' AND (created_at >= :connections_since OR created_at < :zero_date)
