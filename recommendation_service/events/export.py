"""Events out of the database, as JSON lines or Parquet, a part at a time however many there are."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import text
from sqlalchemy.engine import Engine

from recommendation_service.core.errors import SourceError
from recommendation_service.events.records import ITEM_TYPES, FeedRecord
from recommendation_service.events.rows import text_of, unpack_slots
from recommendation_service.events.tables import transaction
from recommendation_service.feed.slate import EXPLORATION, RULES
from recommendation_service.ranking.policy import KINDS
from recommendation_service.ranking.seen import SEEN_POOL

ROWS_AT_ONCE = 2_000

_COLUMNS = (
    *("event_id", "event", "user_id", "item_type", "item_id", "request_id", "session_id", "endpoint", "slot_kind"),
    *("position", "value", "watch_seconds", "flags", "happened_at", "received_at"),
)
_FEED_FIELDS = ("catalog", "policy", "seed", "slots")


@dataclass(frozen=True)
class Selection:
    """Which events; None: any. Times are UTC."""

    since: datetime | None = None
    until: datetime | None = None  # not included
    event: str | None = None
    user_id: int | None = None

    def conditions(self) -> tuple[str, dict[str, Any]]:
        wanted = {
            "happened_at >= :since": ("since", _text(self.since)),
            "happened_at < :until": ("until", _text(self.until)),
            "event = :event": ("event", self.event),
            "user_id = :user": ("user", self.user_id),
        }
        given = {condition: value for condition, value in wanted.items() if value[1] is not None}
        return "".join(f" AND {condition}" for condition in given), dict(given.values())


def read_events(engine: Engine, selection: Selection) -> Iterator[dict[str, Any]]:
    """In the order in which they came into the database; a feed with its slots. Raises SourceError."""
    conditions, parameters = selection.conditions()
    columns = ", ".join(
        f"CAST({name} AS CHAR) AS {name}" if name.endswith("_at") and engine.dialect.name != "sqlite" else name
        for name in _COLUMNS
    )
    statement = text(
        f"SELECT id, {columns}, slots FROM recs_events WHERE id > :last_id{conditions} ORDER BY id LIMIT {ROWS_AT_ONCE}"
    )
    last_id = 0
    while True:
        # By key and not by cursor: nothing stays open on the server however long the reader takes.
        with transaction(engine) as connection:
            rows = connection.execute(statement, parameters | {"last_id": last_id}).mappings().all()
        for row in rows:
            event: dict[str, Any] = {name: row[name] for name in _COLUMNS}
            for name in ("happened_at", "received_at"):
                event[name] = f"{str(event[name]).replace(' ', 'T')}Z"
            feed = unpack_slots(row["slots"]) if row["slots"] is not None else None
            event |= _feed_fields(feed) if feed is not None else dict.fromkeys(_FEED_FIELDS)
            yield event
        if len(rows) < ROWS_AT_ONCE:
            return
        last_id = rows[-1]["id"]


def _feed_fields(feed: FeedRecord) -> dict[str, Any]:
    slots = feed.slots()
    return {
        "catalog": feed.catalog_version,
        "policy": feed.policy_version,
        "seed": feed.seed,
        "slots": [
            {
                "position": place,
                "item_type": ITEM_TYPES[item & 1],
                "item_id": item >> 1,
                "slot": KINDS[kind],
                "pool": _pool_name(pool),
                "propensity": propensity,
                "relaxed": [rule for bit, rule in enumerate(RULES) if relaxed >> bit & 1],
                "features": features,
            }
            for place, (item, kind, pool, relaxed, propensity, features) in enumerate(
                zip(*(column.tolist() for column in slots), strict=True)
            )
        ],
    }


def _pool_name(pool: int) -> str:
    return {EXPLORATION: "exploration", SEEN_POOL: "seen"}.get(pool) or KINDS[pool]


def write_json_lines(events: Iterable[dict[str, Any]], file: BinaryIO) -> int:
    """How many; fields that an event does not have are left out."""
    count = 0
    for event in events:
        present = {name: value for name, value in event.items() if value is not None}
        file.write(json.dumps(present, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        count += 1
    return count


def write_parquet(events: Iterable[dict[str, Any]], path: Path) -> int:
    """How many. Raises SourceError where pyarrow is not installed."""
    try:
        import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]
        from pyarrow import parquet  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise SourceError(
            "Parquet needs pyarrow, which this environment does not have: run `make setup` where the service is "
            f"installed ({Path(__file__).parents[2]}), which installs it as locked; or export JSON lines."
        ) from None
    moment = pa.timestamp("ms", tz="UTC")
    slot = pa.struct(
        [
            ("position", pa.int32()),
            ("item_type", pa.string()),
            ("item_id", pa.int64()),
            ("slot", pa.string()),
            ("pool", pa.string()),
            ("propensity", pa.float64()),
            ("relaxed", pa.list_(pa.string())),
            ("features", pa.list_(pa.float32())),
        ]
    )
    types = {
        **dict.fromkeys(_COLUMNS, pa.string()),
        **dict.fromkeys(("user_id", "item_id", "seed"), pa.uint64()),
        **dict.fromkeys(("position", "flags"), pa.int32()),
        **dict.fromkeys(("value", "watch_seconds"), pa.float64()),
        **dict.fromkeys(("happened_at", "received_at"), moment),
        **dict.fromkeys(("catalog", "policy"), pa.string()),
        "slots": pa.list_(slot),
    }
    schema = pa.schema([(name, types[name]) for name in (*_COLUMNS, *_FEED_FIELDS)])
    count = 0
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for some in _parts(events, ROWS_AT_ONCE):
            for event in some:
                for name in ("happened_at", "received_at"):
                    event[name] = datetime.fromisoformat(event[name])
            writer.write_batch(pa.RecordBatch.from_pylist(some, schema=schema))
            count += len(some)
    return count


def _parts(events: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    part: list[dict[str, Any]] = []
    for event in events:
        part.append(event)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else text_of(int(moment.timestamp() * 1000))
