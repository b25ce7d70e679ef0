"""Rows written out as SQL, by the driver's own escaping of text: its own way of doing so takes longer than the server.

Numbers, hexadecimal digits, times and names of ours need no escaping.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from operator import attrgetter

from recommendation_service.flush.rows import (
    FEED,
    Value,
    common_properties,
    json_text,
    properties_of,
    shown_text,
    slots_of,
    text_of,
)
from recommendation_service.log.records import FeedbackRecord, FeedRecord, endpoint_name
from recommendation_service.model.item_keys import LARGEST_TYPE, type_name
from recommendation_service.model.kinds import MOST_KINDS, kind_name
from recommendation_service.ranking.packed_slots import unpack_shown_of_each

# Text to a quoted literal, for one connection.
Escape = Callable[[str], str]

NULL = "NULL"
_NO_MARKS = str.maketrans("", "", "-: ")
# But for those of a mapping's words, which are written another way.
_FIELDS = attrgetter(*FeedbackRecord.__struct_fields__[: FeedbackRecord.__struct_fields__.index("name")])
_KINDS = (NULL, *(f"'{kind_name(kind)}'" for kind in range(MOST_KINDS)))
_ITEM_TYPES = tuple(f"'{type_name(item_type)}'" for item_type in range(LARGEST_TYPE + 1))


def quote_plain(text: str) -> str:
    """Of text in which nothing wants escaping (rows.are_plain), in a sixth of the time of the driver's escaping."""
    return f"'{text}'"


def row_literals(rows: Iterable[tuple[Value, ...]], escape: Escape) -> list[str]:
    """Any rows. Raises ValueError for a number that is none."""
    return [f"({','.join([_literal(value, escape) for value in row])})" for row in rows]


def feedback_literals(records: Sequence[FeedbackRecord], flush_id: int, escape: Escape) -> list[str]:
    """What ``row_literals`` of ``feedback_row`` says, in half of the time for both sides: nearly all events are these.

    Times are numbers here, which the server reads with less work than text.
    """
    plain = escape is quote_plain  # then the server makes all properties
    own = repeat(NULL) if plain else (_literal(properties_of(record), escape) for record in records)
    known: dict[str | None, str] = {None: NULL}  # several events of a batch have the same request and session
    seconds: dict[int, str] = {}
    found = []
    for (
        event_id, event, user_id, item_type, item_id, happened_ms, received_ms, request_id, session_id, position, value,
        watch_seconds, slot_kind, flags,
    ), properties in zip(map(_FIELDS, records), own, strict=False):  # fmt: skip
        if request_id not in known:
            known[request_id] = escape(request_id)
        if session_id not in known:
            known[session_id] = escape(session_id)
        happened, happened_rest = divmod(happened_ms, 1000)
        if happened not in seconds:
            seconds[happened] = _digits(happened)
        received, received_rest = divmod(received_ms, 1000)
        if received not in seconds:
            seconds[received] = _digits(received)
        found.append(
            f"({escape(event_id)},'{event}',{user_id},{_ITEM_TYPES[item_type]},{item_id},{known[request_id]},"
            f"{known[session_id]},{_KINDS[slot_kind]},{NULL if position is None else position},"
            f"{NULL if value is None else _number(value)},{NULL if watch_seconds is None else _number(watch_seconds)},"
            f"{flags},{seconds[happened]}.{happened_rest:03},{seconds[received]}.{received_rest:03},{properties},{flush_id})"
        )
    return found


def plain_feed_literals(records: Sequence[FeedRecord], flush_id: int, escape: Escape) -> list[str]:
    """What ``row_literals`` of ``feed_row`` says, in a fifth of the time, of records whose own text is plain.

    ``escape``: of versions' names, which are not looked at. Times are numbers, as above.
    """
    beginnings: dict[tuple[str, str, bool, str], str] = {}  # of properties
    seconds: dict[int, str] = {}
    found = []
    for record, (items, kinds, others) in zip(
        records, unpack_shown_of_each([record.packed for record in records]), strict=True
    ):
        begun = record.catalog_version, record.policy_version, record.personal, record.arm
        if begun not in beginnings:
            beginnings[begun] = escape(json_text(common_properties(record))).removesuffix("}'")
        happened, rest = divmod(record.happened_ms, 1000)
        if happened not in seconds:
            seconds[happened] = _digits(happened)
        session = NULL if record.session_id is None else quote_plain(record.session_id)
        moment = f"{seconds[happened]}.{rest:03}"
        found.append(
            f"('{record.event_id.hex()}','{FEED}',{record.user_id},'{record.request_id.hex()}',{session},"
            f"'{endpoint_name(record.endpoint)}',0,{moment},{moment},"
            f'{beginnings[begun]},"items":"{shown_text(items, kinds)}"}}\','
            f"X'{slots_of(record, others).hex()}',{flush_id})"
        )
    return found


def _digits(seconds: int) -> str:
    """'20261124064501', UTC. Raises ValueError."""
    return text_of(seconds * 1000)[:19].translate(_NO_MARKS)


def _literal(value: Value, escape: Escape) -> str:
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    return str(value) if isinstance(value, int) else _number(value)


def _number(value: float | None) -> str:
    if value is None:
        return NULL
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number that a table can hold")
    return repr(value)
