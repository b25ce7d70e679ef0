"""Decisions out of their files, as JSON lines: all that an estimate of another policy needs, by name."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recommendation_service.catalog.dictionary import Dictionary
from recommendation_service.core.errors import SourceError
from recommendation_service.flush.export import pool_name
from recommendation_service.log.decisions import DecisionRecord, read_decisions
from recommendation_service.log.records import endpoint_name
from recommendation_service.model.features import names_of
from recommendation_service.model.item_keys import unpack
from recommendation_service.model.kinds import PINNED
from recommendation_service.ranking.decisions import DecidedSlot, Pool, unpack_decision
from recommendation_service.ranking.slate import RULES


def export_decisions(
    folder: Path,
    since: datetime | None,
    until: datetime | None,
    user_id: int | None,
    ids: Dictionary,
) -> Iterator[dict[str, Any]]:
    """The oldest file's first. Raises SourceError where a file cannot be read."""
    try:
        for record in read_decisions(folder):
            happened = datetime.fromtimestamp(record.happened_ms / 1000, UTC)
            if user_id not in (None, record.user_id):
                continue
            if (since is None or happened >= since) and (until is None or happened < until):
                yield _as_dict(record, happened, ids)
    except OSError as error:
        raise SourceError(f"{error.filename or folder} cannot be read: {error.strerror or error}.") from error


def _as_dict(record: DecisionRecord, happened: datetime, ids: Dictionary) -> dict[str, Any]:
    try:
        decision = unpack_decision(record.packed)
    except ValueError as error:
        raise SourceError(f"The decision of {record.request_id.hex()} cannot be read: {error}.") from None
    return {
        "request_id": record.request_id.hex(),
        "user_id": ids.user(record.user_id),
        "endpoint": endpoint_name(record.endpoint),
        "happened_at": happened.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "size": record.size,
        "catalog": record.catalog_version,
        "policy": record.policy_version,
        "seed": record.seed,
        "drawn": record.drawn,
        "share": record.share,
        "floor": decision.floor,
        "features": names_of(decision.pools[0].X.shape[1]),
        "items": [_item(key, ids) for key in decision.items.tolist()],
        "pools": {
            ids.words.kind_name(kind): _pool(pool) for kind, pool in enumerate(decision.pools) if len(pool.members)
        },
        "slots": [_slot(slot, ids) for slot in decision.slots],
    }


def _item(key: int, ids: Dictionary) -> dict[str, Any]:
    return {"type": ids.words.type_name(unpack(key)[0]), "id": ids.item(key)}


def _pool(pool: Pool) -> dict[str, Any]:
    """``items``: places in the decision's; the others are in their order. ``below``: of the score, under the best of
    the pool, over the temperature."""
    return {"items": pool.members.tolist(), "features": pool.X.tolist(), "below": pool.below.tolist()}


def _slot(slot: DecidedSlot, ids: Dictionary) -> dict[str, Any]:
    """``chosen``, ``eligible``: places in the pool's items; absent where nothing was drawn from a kind's pool."""
    found = {
        **_item(slot.item, ids),
        "slot": ids.words.kind_name(slot.kind),
        "pool": pool_name(slot.pool, ids.words),
        "relaxed": [rule for bit, rule in enumerate(RULES) if slot.relaxed >> bit & 1],
        "propensity": slot.propensity if slot.pool != PINNED else None,
    }
    if slot.chosen >= 0:
        found |= {"chosen": slot.chosen, "eligible": slot.eligible.nonzero()[0].tolist()}
    return found
