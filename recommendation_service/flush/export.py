"""Events out of the database, as JSON lines or Parquet, a part at a time however many there are."""

import contextlib
import errno
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import text
from sqlalchemy.engine import Engine

from recommendation_service.catalog.dictionary import Dictionary
from recommendation_service.core.errors import SourceError
from recommendation_service.flush.rows import (
    FEED_COLUMNS,
    FEEDBACK_COLUMNS,
    TEXT_COLUMNS,
    Event,
    feed_of_row,
    feedback_row,
    own_feed_row,
    own_feedback_row,
    text_of,
)
from recommendation_service.flush.tables import selected, transaction
from recommendation_service.log.records import FeedRecord
from recommendation_service.model.item_keys import item_key, unpack
from recommendation_service.model.kinds import PINNED
from recommendation_service.model.words import FIRST_WORDS, Words
from recommendation_service.ranking.seen import SEEN_POOL
from recommendation_service.ranking.slate import EXPLORATION, RULES

FIRST_IDS = Dictionary(FIRST_WORDS)
ROWS_AT_ONCE = 2_000
LARGEST_ID = 2**63 - 1

EVENT_COLUMNS = (
    *("event_id", "event", "user_id", "item_type", "item_id", "request_id", "session_id", "endpoint", "slot_kind"),
    *("position", "value", "watch_seconds", "flags", "happened_at", "received_at"),
)
_LONG_INTEGERS = ("user_id", "item_id")
_SHORT_INTEGERS = ("position", "flags")
_FEED_FIELDS = ("catalog", "policy", "seed", "personal", "arm", "slots", "shadows")


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


def read_events(engine: Engine, selection: Selection, ids: Dictionary = FIRST_IDS) -> Iterator[dict[str, Any]]:
    """In the order in which they came into the database; a feed with its slots. Raises SourceError.

    Beforehand, when called, for what can be known then: that the database answers and has the table.
    """
    events = _read(engine, selection, ids)
    first = next(events, None)
    return iter(()) if first is None else itertools.chain([first], events)


def _read(engine: Engine, selection: Selection, ids: Dictionary) -> Iterator[dict[str, Any]]:
    conditions, parameters = selection.conditions()
    columns = selected(engine, (*EVENT_COLUMNS, *(TEXT_COLUMNS if ids.words.is_mapped else ())))
    statement = text(
        f"SELECT id, {columns}, properties, slots FROM recs_events "
        f"WHERE id > :last_id{conditions} ORDER BY id LIMIT {ROWS_AT_ONCE}"
    )
    last_id = 0
    while True:
        # By key and not by cursor: nothing stays open on the server however long the reader takes.
        with transaction(engine) as connection:
            rows = connection.execute(statement, parameters | {"last_id": last_id}).mappings().all()
        for row in rows:
            try:
                feed = feed_of_row(row) if row["slots"] is not None else None
                event = event_of_row(row, feed, ids)
            except ValueError as error:
                raise SourceError(f"The feed in row {row['id']} of recs_events cannot be read: {error}.") from None
            yield event
        if len(rows) < ROWS_AT_ONCE:
            return
        last_id = rows[-1]["id"]


def event_of_record(record: Event, ids: Dictionary = FIRST_IDS) -> dict[str, Any]:
    """What ``read_events`` gives of a record once it is in the database.

    Raises IndexError or ValueError for what no column can hold.
    """
    if isinstance(record, FeedRecord):
        row = dict(zip((*FEED_COLUMNS, *TEXT_COLUMNS), own_feed_row(record, 0), strict=True))
        return event_of_row(row, record, ids)
    if ids.words.is_mapped:
        row = dict(zip((*FEEDBACK_COLUMNS, *TEXT_COLUMNS), own_feedback_row(record, 0, ids.words), strict=True))
        return event_of_row(row, None, ids)
    return event_of_row(dict(zip(FEEDBACK_COLUMNS, feedback_row(record, 0), strict=True)), None, ids)


def event_of_row(row: Mapping[Any, Any], feed: FeedRecord | None, ids: Dictionary) -> dict[str, Any]:
    """Of a row of recs_events; what it lacks is None, and so is an id that is text and that nobody tells any more."""
    words = ids.words
    event: dict[str, Any] = {name: row.get(name) for name in EVENT_COLUMNS}
    if words.users_are_text:
        event["user_id"] = row.get("user_text") or ids.user(row["user_id"])
    if event["item_type"] in words.text_types:
        key = item_key(words.type_number(event["item_type"]), row["item_id"])
        event["item_id"] = row.get("item_text") or ids.item(key)
    if event["slot_kind"] is not None:
        with contextlib.suppress(ValueError, IndexError):  # of a kind that nobody has named
            event["slot_kind"] = words.kind_name(words.kind_number(event["slot_kind"]))
    for name in ("happened_at", "received_at"):
        event[name] = f"{str(event[name]).replace(' ', 'T')}Z"
    return event | (_feed_fields(feed, ids) if feed is not None else dict.fromkeys(_FEED_FIELDS))


def _feed_fields(feed: FeedRecord, ids: Dictionary) -> dict[str, Any]:
    slots, words = feed.slots(), ids.words
    return {
        "catalog": feed.catalog_version,
        "policy": feed.policy_version,
        "seed": feed.seed,
        "personal": feed.personal,
        "arm": feed.arm or None,
        "slots": [
            {
                "position": place,
                "item_type": words.type_name(unpack(key)[0]),
                "item_id": ids.item(key),
                "slot": words.kind_name(kind),
                "pool": pool_name(pool, words),
                "propensity": propensity if pool != PINNED else None,
                "relaxed": [rule for bit, rule in enumerate(RULES) if relaxed >> bit & 1],
                "features": features,
            }
            for place, (key, kind, pool, relaxed, propensity, features) in enumerate(
                zip(*(column.tolist() for column in slots), strict=True)
            )
        ],
        "shadows": [
            {"policy": shadow.policy_version, "propensities": shadow.values().tolist()} for shadow in feed.shadows
        ]
        or None,
    }


def pool_name(pool: int, words: Words) -> str:
    """Of what a slot's item was drawn from."""
    return {EXPLORATION: "exploration", SEEN_POOL: "seen", PINNED: "editor"}.get(pool) or words.kind_name(pool)


def write_json_lines(events: Iterable[dict[str, Any]], file: BinaryIO) -> int:
    """How many; fields that an event does not have are left out."""
    count = 0
    for event in events:
        present = {name: value for name, value in event.items() if value is not None}
        file.write(json.dumps(present, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        count += 1
    return count


def write_parquet(events: Iterable[dict[str, Any]], file: BinaryIO, words: Words = FIRST_WORDS) -> int:
    """How many. Ids are int64, or text where the operator's may be text, and null of anonymous people then; times have
    their zone, and no column is a dictionary.

    Raises SourceError where pyarrow is not installed, and for what int64 cannot hold.
    """
    try:
        import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]
        from pyarrow import parquet  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise SourceError(
            "Parquet needs pyarrow, which this environment does not have: run `make setup` where the service is "
            f"installed ({Path(__file__).parents[2]}), which installs it as locked; or export JSON lines."
        ) from None
    moment = pa.timestamp("ms", tz="UTC")
    are_text = {"user_id": words.users_are_text, "item_id": bool(words.text_types)}
    numbers = {name for name, is_text in are_text.items() if not is_text}
    item_id = pa.int64() if "item_id" in numbers else pa.string()
    slot = pa.struct(
        [
            ("position", pa.int32()),
            ("item_type", pa.string()),
            ("item_id", item_id),
            ("slot", pa.string()),
            ("pool", pa.string()),
            ("propensity", pa.float64()),
            ("relaxed", pa.list_(pa.string())),
            ("features", pa.list_(pa.float32())),
        ]
    )
    types = {
        **dict.fromkeys(EVENT_COLUMNS, pa.string()),
        **dict.fromkeys(numbers, pa.int64()),
        **dict.fromkeys(_SHORT_INTEGERS, pa.int32()),
        **dict.fromkeys(("value", "watch_seconds"), pa.float64()),
        **dict.fromkeys(("happened_at", "received_at"), moment),
        **dict.fromkeys(("catalog", "policy", "seed", "arm"), pa.string()),
        "personal": pa.bool_(),
        "slots": pa.list_(slot),
        "shadows": pa.list_(pa.struct([("policy", pa.string()), ("propensities", pa.list_(pa.float32()))])),
    }
    names = (*EVENT_COLUMNS, *_FEED_FIELDS)
    schema = pa.schema([(name, types[name]) for name in names], metadata={"pandas": _for_pandas(numbers)})
    count = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for some in _parts(events, ROWS_AT_ONCE):
            writer.write_batch(
                pa.RecordBatch.from_pylist([_as_columns(event, numbers) for event in some], schema=schema)
            )
            count += len(some)
    return count


def _as_columns(event: dict[str, Any], numbers: Set[str]) -> dict[str, Any]:
    """``numbers``: the columns of ids that are no text.

    Raises SourceError for a number that no tool reads: BIGINT UNSIGNED has more than the API takes.
    """
    for name in numbers:
        if (event[name] or 0) > LARGEST_ID:
            raise SourceError(f"{name} of the event {event['event_id']!r} is {event[name]}, more than {LARGEST_ID}.")
    if "user_id" not in numbers:
        event = event | {"user_id": event["user_id"] or None}
    if "item_id" not in numbers:
        event = _with_text_items(event)
    times = {name: datetime.fromisoformat(event[name]) for name in ("happened_at", "received_at")}
    # All 64 bits of it are used, without a sign.
    return event | times | {"seed": None if event["seed"] is None else str(event["seed"])}


def _with_text_items(event: dict[str, Any]) -> dict[str, Any]:
    """Where some types have numbers for ids and others text, all are text."""
    slots = event["slots"] and [slot | {"item_id": _as_text(slot["item_id"])} for slot in event["slots"]]
    return event | {"item_id": _as_text(event["item_id"]), "slots": slots}


def _as_text(number: int | str | None) -> str | None:
    return None if number is None else str(number)


def _for_pandas(numbers: Set[str]) -> str:
    """What makes pandas read whole numbers that may be absent as such; it takes them for floats, which are too short
    for an id of 54 bits."""
    long = (name for name in _LONG_INTEGERS if name in numbers)
    kinds = dict.fromkeys(long, ("int64", "Int64")) | dict.fromkeys(_SHORT_INTEGERS, ("int32", "Int32"))
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": extension, "metadata": None}
        for name, (kind, extension) in kinds.items()
    ]
    return json.dumps({"index_columns": [], "column_indexes": [], "columns": columns})


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its place under that name once it is whole; until then what is there stays. Raises OSError.

    What is no file, as a pipe or /dev/null, is written to as it is.
    """
    path = path.resolve()  # of a link, the file behind it
    if path.exists() and not path.is_file() and not path.is_dir():
        with open(path, "wb") as file:
            yield file
        return
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            temporary.chmod(path.stat().st_mode & 0o7777)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
