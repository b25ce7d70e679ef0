"""An operator's own table into which events are written as well, by the templates of its mapping's ``[log]``.

Written in the transaction that puts the events into recs_events, and of those alone that were not there before: so each
event is in both tables once, or in neither.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from recommendation_service.core.errors import SourceError
from recommendation_service.core.local_time import local_text
from recommendation_service.flush.rows import FEED, Event, json_text, text_of
from recommendation_service.flush.tables import describe
from recommendation_service.log.records import FeedbackRecord, FeedRecord, endpoint_name
from recommendation_service.model.words import Words
from recommendation_service.sources.mapping.format import Log, Templates
from recommendation_service.sources.mapping.log_table import log_problems

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class OperatorLog:
    """``events``: names of the events that are written. ``zone``: of the operator's times."""

    def __init__(self, log: Log, events: frozenset[str], words: Words, zone: tzinfo) -> None:
        self._log = log
        self._events = events
        self._words = words
        self._zone = zone

    @property
    def table(self) -> str:
        return self._log.table

    def problems(self, engine: Engine) -> list[str]:
        """Why nothing could be written there, as far as the table's columns tell. Raises SourceError."""
        try:
            with engine.connect() as connection:
                return log_problems(self._log, connection)
        except DBAPIError as error:
            raise SourceError(describe(error)) from error

    def write(self, connection: Connection, records: Sequence[Event]) -> None:
        """Rows of those that are written at all. Raises DBAPIError, ValueError."""
        for templates, rows in (
            (self._log.events, [self._of_feedback(one) for one in records if isinstance(one, FeedbackRecord)]),
            (self._log.feeds, [self._of_feed(one) for one in records if isinstance(one, FeedRecord)]),
        ):
            told = [row for row in rows if row["event"] in self._events or row["event"] == FEED]
            if templates and told:
                self._insert(connection, templates, told)

    def _insert(self, connection: Connection, templates: Templates, told: Sequence[dict[str, Any]]) -> None:
        quote = connection.dialect.identifier_preparer.quote
        columns = ", ".join(quote(column) for column in templates)
        places = ", ".join(f":c{place}" for place in range(len(templates)))
        connection.execute(
            text(f"INSERT INTO {quote(self.table)} ({columns}) VALUES ({places})"),
            [{f"c{place}": _filled(one, row) for place, one in enumerate(templates.values())} for row in told],
        )

    def _of_feedback(self, record: FeedbackRecord) -> dict[str, Any]:
        kind = self._words.kind_name(record.slot_kind - 1) if record.slot_kind else None
        said = {
            "event": record.own_name,
            "event_id": record.event_id,
            "user": record.user_text or record.user_id or None,
            "type": self._words.type_name(record.item_type),
            "item": record.item_text or record.item_id,
            "request": record.request_id,
            "session": record.session_id,
            "kind": kind,
            "position": record.position,
            "value": record.value,
            "watch_seconds": record.watch_seconds,
        }
        return self._with_times(said, record.happened_ms) | {"feed": None}

    def _of_feed(self, record: FeedRecord) -> dict[str, Any]:
        feed = endpoint_name(record.endpoint)
        said = {
            "event": FEED,
            "event_id": record.event_id.hex(),
            "user": record.user_text or (None if self._words.users_are_text else record.user_id or None),
            "feed": feed,
            "request": record.request_id.hex(),
            "session": record.session_id,
            "size": record.size,
        }
        nothing = dict.fromkeys(("type", "item", "kind", "position", "value"))
        return nothing | self._with_times(said, record.happened_ms)

    def _with_times(self, said: dict[str, Any], happened_ms: int) -> dict[str, Any]:
        moment = f"{text_of(happened_ms).replace(' ', 'T')}Z"
        present = {name: value for name, value in said.items() if value is not None}
        return said | {
            "time": local_text(datetime.fromtimestamp(happened_ms / 1000, UTC), self._zone),
            "json": json_text(present | {"happened_at": moment}),
        }


def _filled(template: str | int | float | Mapping[str, str], told: Mapping[str, Any]) -> Any:
    """A column's value. A placeholder that is all of a text is the value as it is; in a longer one what is absent is
    empty."""
    if isinstance(template, Mapping):
        template = template.get(told["type"] or "", "")
        if not template:
            return None
    if not isinstance(template, str):
        return template
    alone = _PLACEHOLDER.fullmatch(template)
    if alone is not None:
        return told[alone[1]]
    return _PLACEHOLDER.sub(lambda found: "" if told[found[1]] is None else str(told[found[1]]), template)
