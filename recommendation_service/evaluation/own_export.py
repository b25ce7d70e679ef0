"""What this service decided, with what each slot brought, as lines of dsjson."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from recommendation_service.catalog.dictionary import Dictionary
from recommendation_service.dsjson.own import own_decision
from recommendation_service.dsjson.writing import line_of
from recommendation_service.evaluation.recorded_columns import Recorded
from recommendation_service.log.decisions import DecisionRecord, read_decisions
from recommendation_service.log.records import endpoint_name
from recommendation_service.ranking.decisions import unpack_decision

# Decisions of which the feeds are looked up at once.
_AT_ONCE = 500


class Written(NamedTuple):
    decisions: int
    without_feed: int  # of a feed that is not in the database, or not in these days
    unread: int  # of another release


def write_own(recorded: Recorded, folder: Path, endpoint: str | None, file: BinaryIO, ids: Dictionary) -> Written:
    """``folder``: of decisions; ``endpoint``: of these feeds only. Raises OSError."""
    count, without_feed, unread = 0, 0, 0
    strange: list[None] = []
    records = read_decisions(folder, lambda: strange.append(None))
    for some in _batched((record for record in records if _is_wanted(record, endpoint)), _AT_ONCE):
        requests = np.frombuffer(b"".join(record.request_id for record in some), np.uint64).reshape(-1, 2)
        for record, place in zip(some, recorded.place_of(requests).tolist(), strict=True):
            if place < 0:
                without_feed += 1
                continue
            rewards = recorded.rewards[place]
            rewards = rewards[~np.isnan(rewards)].astype(np.float64)
            try:
                decision = unpack_decision(record.packed)
                if len(decision.slots) != len(rewards):
                    raise ValueError("its feed has other slots")
            except ValueError:
                unread += 1
                continue
            name = endpoint_name(record.endpoint)
            own = own_decision(
                record.request_id.hex(), record.happened_ms, name, decision, rewards.tolist(), ids.words, ids.item
            )
            file.write(line_of(own) + b"\n")
            count += 1
    return Written(count, without_feed, unread + len(strange))


def _is_wanted(record: DecisionRecord, endpoint: str | None) -> bool:
    """What a client asked for by explaining it was not drawn: no estimate may count it."""
    return record.drawn and (endpoint is None or endpoint_name(record.endpoint) == endpoint)


def _batched(records: Iterator[DecisionRecord], size: int) -> Iterator[list[DecisionRecord]]:
    while some := list(itertools.islice(records, size)):
        yield some
