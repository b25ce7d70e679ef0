"""recs_events as earlier releases made it, word for word."""

from __future__ import annotations

from typing import Literal

from sqlalchemy.engine import Engine

# 5484959's, in which an id counted for all users together; and the one after it, in which it counts within its user.
Form = Literal["5484959", "next"]
FORMS: tuple[Form, ...] = ("5484959", "next")

_MYSQL = """\
CREATE TABLE recs_events (
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  event_id VARCHAR(128) NOT NULL,
  event VARCHAR(16) NOT NULL,
  user_id BIGINT UNSIGNED NOT NULL,
  item_type VARCHAR(9) NULL,
  item_id BIGINT UNSIGNED NULL,
  request_id VARCHAR(128) NULL,
  session_id VARCHAR(128) NULL,
  endpoint VARCHAR(8) NULL,
  slot_kind VARCHAR(8) NULL,
  position INT NULL,
  value DOUBLE NULL,
  watch_seconds DOUBLE NULL,
  flags SMALLINT NOT NULL,
  happened_at DATETIME(3) NOT NULL,
  received_at DATETIME(3) NOT NULL,
  properties MEDIUMTEXT NULL,
  slots MEDIUMBLOB NULL,
  flush_id BIGINT NOT NULL,
  UNIQUE KEY recs_events_event_id (event_id),
  KEY recs_events_user_time (user_id, happened_at),
  KEY recs_events_request (request_id),
  KEY recs_events_time (happened_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"""
_SQLITE = (
    """\
CREATE TABLE recs_events (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  event_id TEXT NOT NULL UNIQUE,
  event TEXT NOT NULL,
  user_id INTEGER NOT NULL,
  item_type TEXT NULL,
  item_id INTEGER NULL,
  request_id TEXT NULL,
  session_id TEXT NULL,
  endpoint TEXT NULL,
  slot_kind TEXT NULL,
  position INTEGER NULL,
  value REAL NULL,
  watch_seconds REAL NULL,
  flags INTEGER NOT NULL,
  happened_at TEXT NOT NULL,
  received_at TEXT NOT NULL,
  properties TEXT NULL,
  slots BLOB NULL,
  flush_id INTEGER NOT NULL
)""",
    "CREATE INDEX recs_events_user_time ON recs_events (user_id, happened_at)",
    "CREATE INDEX recs_events_request ON recs_events (request_id)",
    "CREATE INDEX recs_events_time ON recs_events (happened_at)",
)
_SECOND = {
    "UNIQUE KEY recs_events_event_id (event_id)": "UNIQUE KEY recs_events_event_user (event_id, user_id)",
    "event_id TEXT NOT NULL UNIQUE": "event_id TEXT NOT NULL",
}


def make_table_of(engine: Engine, form: Form) -> None:
    """In the place of the table that is there."""
    with engine.begin() as connection:
        mysql = engine.dialect.name != "sqlite"
        made = [_MYSQL] if mysql else list(_SQLITE)
        if form == "next":
            for old, new in _SECOND.items():
                made[0] = made[0].replace(old, new)
            if not mysql:
                made.append("CREATE UNIQUE INDEX recs_events_event_user ON recs_events (event_id, user_id)")
        for statement in (
            "DROP TABLE recs_events",
            *made,
            f"DELETE FROM recs_schema WHERE version > {1 + FORMS.index(form)}",
        ):
            connection.exec_driver_sql(statement)


def add_rows(engine: Engine) -> None:
    """One of each kind, as those releases wrote them: events tap-1 and feed-1 of user 1, of the batch 1."""
    with engine.begin() as connection:
        for statement in (
            "INSERT INTO recs_events (event_id, event, user_id, item_type, item_id, slot_kind, flags, happened_at, "
            "received_at, flush_id) VALUES ('tap-1', 'view', 1, 'challenge', 42, 'FLOW', 0, '2026-09-21 14:13:20', "
            "'2026-09-21 14:13:20', 1)",
            "INSERT INTO recs_events (event_id, event, user_id, endpoint, flags, happened_at, received_at, slots, "
            "flush_id) VALUES ('feed-1', 'feed', 1, 'discover', 0, '2026-09-21 14:13:21', '2026-09-21 14:13:21', "
            "X'0102', 1)",
        ):
            connection.exec_driver_sql(statement)
