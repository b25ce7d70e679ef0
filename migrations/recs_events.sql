-- The service's own tables in the operator's database: what `recs migrate` makes, for whoever runs DDL by hand.
-- Columns: docs/events.md.
--
--   mysql --protocol=tcp -h HOST -P PORT -u ADMIN -p interacpedia < migrations/recs_events.sql
-- (Debian 13's client wants --skip-ssl-verify-server-cert where the server has no certificate that it knows.)
--
-- MySQL 5.7+ or MariaDB 10.2+. It can be run again: what is there stays.

CREATE TABLE IF NOT EXISTS recs_schema (
  version INT NOT NULL PRIMARY KEY,
  what VARCHAR(255) NOT NULL,
  applied_at VARCHAR(19) NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE IF NOT EXISTS recs_events (
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  event_id VARCHAR(128) NOT NULL,
  event VARCHAR(63) NOT NULL,
  user_id BIGINT UNSIGNED NOT NULL,
  item_type VARCHAR(63) NULL,
  item_id BIGINT UNSIGNED NULL,
  request_id VARCHAR(128) NULL,
  session_id VARCHAR(128) NULL,
  endpoint VARCHAR(63) NULL,
  slot_kind VARCHAR(63) NULL,
  position INT NULL,
  value DOUBLE NULL,
  watch_seconds DOUBLE NULL,
  flags SMALLINT NOT NULL,
  happened_at DATETIME(3) NOT NULL,
  received_at DATETIME(3) NOT NULL,
  properties MEDIUMTEXT NULL,
  slots MEDIUMBLOB NULL,
  flush_id BIGINT NOT NULL,
  user_text VARCHAR(191) NULL,
  item_text VARCHAR(191) NULL,
  UNIQUE KEY recs_events_event_user (event_id, user_id),
  KEY recs_events_user_time (user_id, happened_at),
  KEY recs_events_request (request_id),
  KEY recs_events_time (happened_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
INSERT IGNORE INTO recs_schema (version, what, applied_at)
  VALUES (1, 'recs_events, what feeds showed and what people did', CAST(UTC_TIMESTAMP() AS CHAR));
SET @recs_statement = IF((SELECT COUNT(*) FROM information_schema.statistics
  WHERE table_schema = DATABASE() AND table_name = 'recs_events' AND index_name = 'recs_events_event_user') = 0,
  'CREATE UNIQUE INDEX recs_events_event_user ON recs_events (event_id, user_id)', 'DO 0');
PREPARE recs_statement FROM @recs_statement;
EXECUTE recs_statement;
SET @recs_statement = IF((SELECT COUNT(*) FROM information_schema.statistics
  WHERE table_schema = DATABASE() AND table_name = 'recs_events' AND index_name = 'recs_events_event_id') > 0,
  'DROP INDEX recs_events_event_id ON recs_events', 'DO 0');
PREPARE recs_statement FROM @recs_statement;
EXECUTE recs_statement;
INSERT IGNORE INTO recs_schema (version, what, applied_at)
  VALUES (2, 'an event_id counts within its user', CAST(UTC_TIMESTAMP() AS CHAR));
SET @recs_statement = IF((SELECT COUNT(*) FROM information_schema.columns
  WHERE table_schema = DATABASE() AND table_name = 'recs_events' AND column_name IN ('event', 'item_type', 'endpoint', 'slot_kind')
  AND character_maximum_length >= 63) < 4,
  'ALTER TABLE recs_events MODIFY event VARCHAR(63) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, MODIFY item_type VARCHAR(63) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL, MODIFY endpoint VARCHAR(63) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL, MODIFY slot_kind VARCHAR(63) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL', 'DO 0');
PREPARE recs_statement FROM @recs_statement;
EXECUTE recs_statement;
SET @recs_statement = IF((SELECT COUNT(*) FROM information_schema.columns
  WHERE table_schema = DATABASE() AND table_name = 'recs_events' AND column_name = 'item_text') = 0,
  'ALTER TABLE recs_events ADD COLUMN user_text VARCHAR(191) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL, ADD COLUMN item_text VARCHAR(191) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL', 'DO 0');
PREPARE recs_statement FROM @recs_statement;
EXECUTE recs_statement;
INSERT IGNORE INTO recs_schema (version, what, applied_at)
  VALUES (3, 'ids that are text, and longer names', CAST(UTC_TIMESTAMP() AS CHAR));
