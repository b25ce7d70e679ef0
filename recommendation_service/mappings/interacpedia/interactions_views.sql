-- Views from the activity log, of videos and of challenges. The window is found in the narrow index on created_at alone,
-- and only its rows are then read, by id: in one step a server holds that to be dearer than reading the whole log.
-- MySQL 9.7 holds it so in two steps as well, hence the hint.
-- The service itself appends what it saw, with the event in the properties: what was only shown, skipped or hidden is no
-- view. That is told by the value, as a JSON column gives text back with blanks and in its own order of keys; and only
-- of what is JSON, as MySQL refuses the whole query for one text that is none, or that is nested more than 100 deep.
-- SQLite extracts a text without its quotes.
SELECT /*+ JOIN_ORDER(recent, a) */
       a.causer_id AS user_id, a.subject_id AS item_id, 2 AS weight, CAST(a.created_at AS CHAR) AS happened_at,
       CASE WHEN a.subject_type LIKE '%Challenge%' THEN 1 ELSE 0 END AS is_challenge
FROM activity_log recent
JOIN activity_log a ON a.id = recent.id
WHERE (recent.created_at >= :views_since OR recent.created_at < :zero_date)
  AND a.description LIKE '%video%' AND a.description LIKE '%view%'
  AND a.causer_id IS NOT NULL AND a.subject_id IS NOT NULL
  AND COALESCE(CASE WHEN LENGTH(a.properties) - LENGTH(REPLACE(REPLACE(a.properties, '[', ''), '{', '')) <= 100
                          AND JSON_VALID(a.properties) THEN CAST(JSON_EXTRACT(a.properties, '$.event') AS CHAR) END, '')
      NOT IN ('"impression"', '"skip"', '"hide"', 'impression', 'skip', 'hide')
