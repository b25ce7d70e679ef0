"""The replayed log in an operator's tables, as far as it has been told: what the service's own SQL then reads.

- An item is a résumé video; what it is about are its skills. Its creator is a user. There are no challenges.
- A rating, save or match is a row of its table. A view is one of ``activity_log``, which counts for the user, and each
  consumption, of whatever kind, is one of ``views``, which counts for the item.
- Profiles are empty: a log says nothing of who people are.
"""

import json
from typing import Any

import numpy as np
from sqlalchemy import Engine, Insert, insert

from recommendation_service.demo import schema
from recommendation_service.demo.draws import timestamps
from recommendation_service.evaluation.interaction_log import MATCH, RATING, SAVE, VIEW, Int64, InteractionLog
from recommendation_service.mappings.interacpedia.words import RESUME

ITEM_TYPE = RESUME

# The columns by which one user is read; as an operator has them by phase 1.
_USER_COLUMNS = {"team_feedbacks": "user_id", "likes": "user_id", "matches": "user_id", "activity_log": "causer_id"}
_CREATORS_FROM = 1_000_000_000  # numbers of users who make items, beyond those of the log
_LOWEST_RATING = 0.5  # a rating of 0 is none to the tables


def user_number(user: int) -> int:
    return user + 1


def item_number(item: int) -> int:
    return item + 1


class OperatorTables:
    """Written event by event, each once. The rows have the log's own times."""

    def __init__(self, engine: Engine, log: InteractionLog) -> None:
        self._engine, self._log = engine, log
        self._event_written = np.zeros(len(log.when), bool)
        self._item_written = np.zeros(log.items, bool)
        self._user_written = np.zeros(log.users, bool)
        self._viewed: set[tuple[int, int]] = set()
        self._told_until = -1
        order = np.argsort(log.user, kind="stable")
        self._of_user = np.split(order, np.searchsorted(log.user[order], np.arange(1, log.users)))
        schema.metadata.create_all(engine)
        with engine.begin() as connection:
            for table, column in _USER_COLUMNS.items():
                connection.exec_driver_sql(f"CREATE INDEX replay_{table} ON {table} ({column})")

    def tell_until(self, moment: int) -> None:
        """All that was before ``moment``, which is never before what was told already: tables cannot unlearn."""
        self._go_on_to(moment)
        self._write_items(np.flatnonzero((self._log.created < moment) & ~self._item_written))
        self._write_events(np.arange(np.searchsorted(self._log.when, moment)))

    def tell_of_user(self, user: int, moment: int) -> None:
        """All that one user did before ``moment``, likewise."""
        self._go_on_to(moment)
        events = self._of_user[user]
        self._write_events(events[self._log.when[events] < moment])

    def _go_on_to(self, moment: int) -> None:
        if moment < self._told_until:
            raise RuntimeError("the replay goes back in time: the tables hold what is not known yet")
        self._told_until = moment

    def _write_items(self, items: Int64) -> None:
        log = self._log
        made = timestamps(log.created[items])
        creators = np.unique(log.creator[items])
        of_creators = [
            {"id": _CREATORS_FROM + creator, "name": f"Creator {creator + 1}"} for creator in creators.tolist()
        ]
        of_items = [
            {
                "id": item_number(item),
                "user_id": _CREATORS_FROM + int(log.creator[item]),
                "video": f"https://media.example.com/{item_number(item)}.mp4",
                "skills": json.dumps(log.skills[item], ensure_ascii=False),
                "description": log.titles[item],
                "status": "send",
                "created_at": time,
                "updated_at": time,
            }
            for item, time in zip(items.tolist(), made, strict=True)
        ]
        self._insert((insert(schema.users).prefix_with("OR IGNORE"), of_creators), (insert(schema.resumes), of_items))
        self._item_written[items] = True

    def _write_events(self, events: Int64) -> None:
        log = self._log
        events = events[~self._event_written[events]]
        if not len(events):
            return
        self._event_written[events] = True
        times = dict(zip(events.tolist(), timestamps(log.when[events]), strict=True))
        new_users = np.unique(log.user[events])
        new_users = new_users[~self._user_written[new_users]]
        self._user_written[new_users] = True
        first = {int(log.user[event]): times[int(event)] for event in events[::-1]}
        of_users = [
            {"id": user_number(user), "name": f"User {user_number(user)}", "created_at": first[user]}
            for user in new_users.tolist()
        ]
        rows: dict[int, list[dict[str, Any]]] = {kind: [] for kind in (VIEW, RATING, SAVE, MATCH)}
        seen = []
        for event in events.tolist():
            user, item, time = int(log.user[event]), int(log.item[event]), times[event]
            rows[int(log.event[event])].append(self._row(event, time))
            if (user, item) not in self._viewed:
                self._viewed.add((user, item))
                seen.append(self._view(user, item, time))
        self._insert(
            (insert(schema.users), of_users),
            (insert(schema.activity_log), rows[VIEW]),
            (insert(schema.team_feedbacks), rows[RATING]),
            (insert(schema.likes), rows[SAVE]),
            (insert(schema.matches), rows[MATCH]),
            (insert(schema.views), seen),
        )

    def _row(self, event: int, time: str) -> dict[str, Any]:
        log, kind = self._log, int(self._log.event[event])
        user, item = user_number(int(log.user[event])), item_number(int(log.item[event]))
        if kind == VIEW:
            return {
                "description": "video view",
                "subject_id": item,
                "subject_type": schema.RESUME_MODEL,
                "causer_id": user,
                "causer_type": schema.USER_MODEL,
                "created_at": time,
            }
        row = {"user_id": user, "model_id": item, "created_at": time}
        if kind == RATING:
            value = float(log.value[event])
            return row | {"type": "ranking_resume", "value": _LOWEST_RATING if np.isnan(value) else max(value, 0.5)}
        return row | ({"type": "save"} if kind == SAVE else {"status": "accepted"})

    def _view(self, user: int, item: int, time: str) -> dict[str, Any]:
        return {
            "user_id": user_number(user),
            "model_id": item_number(item),
            "model_type": schema.RESUME_MODEL,
            "created_at": time,
        }

    def _insert(self, *inserts: tuple[Insert, list[dict[str, Any]]]) -> None:
        """In one transaction: each takes longer than its rows."""
        with self._engine.begin() as connection:
            for statement, rows in inserts:
                if rows:
                    connection.execute(statement, rows)
