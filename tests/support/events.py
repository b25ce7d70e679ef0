"""Records of events, and the log's files, for tests."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from recommendation_service.flush.rows import Event
from recommendation_service.log.records import FeedbackRecord, FeedRecord, encode, now_ms
from recommendation_service.log.segments import SUFFIX, SegmentWriter
from recommendation_service.ranking.packed_slots import Slots, pack_as_they_are

HAPPENED_MS = 1_790_000_000_250  # 2026-09-21 14:13:20.250


def feedback(**fields: Any) -> FeedbackRecord:
    given: dict[str, Any] = {
        "event_id": uuid.uuid4().hex,
        "event": "impression",
        "user_id": 7,
        "item_type": 0,
        "item_id": 42,
        "happened_ms": HAPPENED_MS,
        "received_ms": now_ms(),
    }
    return FeedbackRecord(**given | fields)


def feed(items: int = 3, **fields: Any) -> FeedRecord:
    """Every third item is a challenge in slot FW, the others are videos in AU."""
    places = np.arange(items)
    is_challenge = places % 3 == 2
    given: dict[str, Any] = {
        "event_id": os.urandom(16),
        "request_id": os.urandom(16),
        "user_id": 7,
        "session_id": "tab-1",
        "endpoint": 0,
        "happened_ms": HAPPENED_MS,
        "catalog_version": "20261124T064235.000000Z",
        "policy_version": "starting-1",
        "seed": 2**62 + 1,
        "packed": pack_as_they_are(
            Slots(
                (100 + places) << 1 | is_challenge,
                np.where(is_challenge, 3, 1).astype(np.uint8),
                np.where(is_challenge, 3, 1).astype(np.uint8),
                (places % 2).astype(np.uint8),
                (1 / (places + 2)).astype(np.float32),
                np.arange(items * 18, dtype=np.float32).reshape(items, 18),
            )
        ),
    }
    return FeedRecord(**given | fields)


def write_segment(
    folder: Path, records: Iterable[Event | bytes], *, name: str | None = None, size: int = 1 << 20
) -> Path:
    """A complete segment, as a worker leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = SegmentWriter(folder / f"{name or f'{now_ms() * 1_000_000:020d}-{uuid.uuid4().hex[:6]}'}{SUFFIX}", size)
    for record in records:
        writer.append(record if isinstance(record, bytes) else encode(record))
    writer.close()
    return writer.path
