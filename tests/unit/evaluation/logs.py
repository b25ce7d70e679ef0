"""Small logs with known answers."""

from __future__ import annotations

from typing import Any

from recommendation_service.evaluation.interaction_log import InteractionLog, log_of_frames

DAY = 86_400
MIDNIGHT = 1_767_225_600  # 2026-01-01


def log_of(events: list[tuple[int, int, float]], items: dict[str, list[Any]] | None = None) -> InteractionLog:
    """Events of (user, item, days since the beginning)."""
    users, taken, days = zip(*events, strict=True)
    frame = {
        "user_id": list(users),
        "item_id": list(taken),
        "happened_at": [int(MIDNIGHT + day * DAY) for day in days],
    }
    return log_of_frames(frame, items)


def sequences(users: int = 30, items: int = 12, length: int = 8) -> InteractionLog:
    """Each user walks through the items in one order, from a place of their own: what comes next is certain."""
    return log_of(
        [(user, (user * 5 + step) % items, 2.0 * user + step / 10) for user in range(users) for step in range(length)]
    )
