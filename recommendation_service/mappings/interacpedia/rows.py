"""The first operator's own rows that say what people did (rows_TABLE.sql), in the order in which they came."""

import math
from datetime import datetime, tzinfo
from typing import Any

from recommendation_service.mappings.interacpedia.statements import FOLDER
from recommendation_service.mappings.interacpedia.words import CHALLENGE, RESUME
from recommendation_service.model.item_keys import LARGEST_ITEM, item_key
from recommendation_service.sources.reader import Snapshot
from recommendation_service.sources.rows import OperatorRow, Page

PREFIX = "rows_"
LARGEST_ID = 2**63 - 1
_DAY_MS = 86_400_000


def tables_with_rows() -> tuple[str, ...]:
    """Names of the tables that can be read."""
    return tuple(sorted(path.stem.removeprefix(PREFIX) for path in FOLDER.glob(f"{PREFIX}*.sql")))


def read_rows(snapshot: Snapshot, table: str, after: int, most: int) -> Page:
    """The next ``most`` rows after an id. Raises SourceError."""
    snapshot.parameters |= {"after": after, "most": most}
    found = snapshot.read(f"{PREFIX}{table}")
    zone = found.zone
    rows = [
        OperatorRow(
            int(number),
            _id(user),
            _item(item, is_challenge),
            None if says is None else str(says),
            _number(value),
            _milliseconds(when, zone),
        )
        for number, user, item, is_challenge, says, value, when in zip(
            *(found[name] for name in ("id", "user_id", "item_id", "is_challenge", "says", "value", "happened_at")),
            strict=True,
        )
        if number is not None
    ]
    rows.sort(key=lambda row: row.id)
    last_id = int(found["last_id"][0] or 0) if len(found) else 0
    return Page(rows, last_id, rows[-1].id if len(rows) == most else None)


def _id(value: Any, largest: int = LARGEST_ID) -> int | None:
    return int(value) if isinstance(value, int) and 0 < value <= largest else None


def _item(number: Any, is_challenge: Any) -> int | None:
    found = _id(number, LARGEST_ITEM)
    return None if found is None else item_key(CHALLENGE if int(is_challenge or 0) else RESUME, found)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _milliseconds(value: Any, zone: tzinfo) -> int | None:
    try:
        moment = datetime.fromisoformat(str(value))
        found = round((moment.replace(tzinfo=zone) if moment.tzinfo is None else moment).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
    return found if found > _DAY_MS else None
