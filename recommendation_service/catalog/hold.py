"""Holding back a catalog that would lose most of its items at once: a table was emptied, or a clock is wrong.

What was withdrawn (deleted, unpublished, blacklisted) leaves feeds at once all the same, however much it is: while a
catalog is held back, the current one is served without that. After CATALOG_HOLD_SECONDS the new one is published.
"""

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from recommendation_service.catalog.built import BuiltCatalog
from recommendation_service.catalog.coded_source import CodedSource
from recommendation_service.catalog.collaborative import NeighbourLists
from recommendation_service.catalog.filter_columns import kept_rows
from recommendation_service.catalog.kept_lists import moved
from recommendation_service.catalog.mapped_standing import standing_by_mapping, words_of
from recommendation_service.catalog.orderings import hash_table
from recommendation_service.catalog.report import BuildReport
from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.catalog.texts import Texts
from recommendation_service.core.clock import Clock
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import CatalogError
from recommendation_service.core.files import write_whole
from recommendation_service.model.columns import CatalogArrays, Int64, keys_of, rows_of
from recommendation_service.model.item_keys import item_keys
from recommendation_service.policies.policy import Policy
from recommendation_service.sources.mapping.source import MappedSource

log = structlog.get_logger(__name__)

FILE = "hold.json"
# So few items may go at once whatever their share.
FEW = 10

Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Held:
    """Why a catalog is held back, and since when."""

    reason: str
    boot: str  # ``since`` counts from this boot of the machine
    since: float  # CLOCK_BOOTTIME, which nobody sets


class Holder:
    """Publishes what was built, or the current catalog without what was withdrawn."""

    def __init__(
        self, settings: Settings, source: CodedSource | MappedSource, store: CatalogStore, clock: Clock
    ) -> None:
        self._settings = settings
        self._source = source
        self._store = store
        self._clock = clock

    def publish(
        self, built: BuiltCatalog, policy: Policy, fingerprint: str | None = None, *, force: bool = False
    ) -> str:
        """``policy``: what it was built with. Gives the version that is current then.

        Raises SourceError, CatalogError: of nothing no first catalog is made, and none over one of something, by force
        or after a time either, unless each item was withdrawn by its own row.
        """
        if not built.item_bodies and self._store.current() is None:
            raise CatalogError(f"There is nothing to show, so no catalog is made: {self._nothing(built.report)}.")
        held = None if force and built.item_bodies else self._held(built, policy)
        if held is None:
            version = self._store.publish(built, fingerprint)
            if (self._store.folder / FILE).exists():
                log.info("the catalog that was held back is published", version=version)
                (self._store.folder / FILE).unlink(missing_ok=True)
            return version
        reason, current, kept = held
        if self._known() is None:
            log.error("a catalog is held back", reason=reason, seconds=self._settings.catalog_hold_seconds)
        self._note(reason)
        built.report.warnings.append(f"Held back: {reason}")
        if kept.all() and _same_list(current.not_personal, built.not_personal):
            return current.version
        names, zone = self._store.names(current.version), self._settings.item_time_zone
        kept_back = without(current, kept, built.report, names, zone)
        counts = {word: len(_numbers(kept_back.arrays, number)) for number, word in words_of(self._source).items()}
        if isinstance(self._source, MappedSource):
            counts["items"] = len(kept_back.item_bodies)
        built.report.counts = current.counts | counts
        # Who asked for feeds that are not personal waits for no table to be put right.
        return self._store.publish(replace(kept_back, not_personal=built.not_personal), fingerprint)

    def is_over(self) -> bool:
        """Whether a catalog was held back for as long as it is to be."""
        known = self._known()
        return known is not None and self._clock.monotonic() - known.since >= self._settings.catalog_hold_seconds

    def _held(self, built: BuiltCatalog, policy: Policy) -> tuple[str, Catalog, Mask] | None:
        """Why what was built is not to be published, the current catalog, and what of its items may be shown."""
        version, source = self._store.current(), self._source
        may_wait = self._settings.catalog_hold_seconds > 0 and not self.is_over()
        if version is None or (built.item_bodies and not may_wait):
            return None
        try:
            current = self._store.open(version, verify=False)
        except CatalogError:
            return None  # nothing to be served instead
        if isinstance(source, MappedSource) and current.manifest.get("mapping") != source.mapping.digest:
            return None  # what is meant by items is another
        words = words_of(source)
        ours = {number: _numbers(current.arrays, number) for number in words}
        theirs = {number: _numbers(built.arrays, number) for number in words}
        lost = {number: mine[~np.isin(mine, theirs[number])] for number, mine in ours.items()}
        if built.item_bodies and not any(self._is_much(gone, ours[number]) for number, gone in lost.items()):
            return None
        standing = (
            standing_by_mapping(source, current, built.built_at)
            if isinstance(source, MappedSource)
            else source.standing(self._settings, policy, built.built_at)
        )
        much: list[tuple[Int64, str]] = []
        few: list[tuple[Int64, str]] = []
        for number, word in words.items():
            mine, new, gone = ours[number], theirs[number], lost[number]
            is_over = np.isin(gone, standing.eligible[number])
            for items, why in zip(
                (gone[is_over], gone[~is_over & ~np.isin(gone, standing.present[number])]),
                standing.reasons[number],
                strict=True,
            ):
                reason = f"it would have {len(new):,} {word} and not {len(mine):,}: {len(items):,} {why}"
                if len(items):
                    (much if self._is_much(items, mine) else few).append((item_keys(number, items), reason))
        # The few that are gone may go, unless nothing were left.
        held = much or ([] if built.item_bodies else few)
        if not held:
            return None
        kept = np.isin(_keys(current.arrays), np.concatenate([_keys(built.arrays), *(keys for keys, _ in held)]))
        for item in np.flatnonzero(kept).tolist():  # whose row is gone may be blacklisted all the same
            kept[item] = not standing.is_withdrawn(current.item_types[current.type_of(item)], current.item_json(item))
        return "; ".join(reason for _, reason in held), current, kept

    def _is_much(self, items: Int64, of: Int64) -> bool:
        return len(items) > max(FEW, self._settings.catalog_hold_share * len(of))

    def _nothing(self, report: BuildReport) -> str:
        """Why a build has no items."""
        aside = ", ".join(
            f"{count:,} of {column} ({reason})" for (column, reason), count in report.set_aside.most_common(5)
        )
        source = self._source
        what = "no query of the mapping gives an item" if isinstance(source, MappedSource) else source.nothing
        return f"{what}{f'; set aside were {aside}' if aside else ''}"

    def _known(self) -> Held | None:
        return self._of_this_boot(read_held(self._store.folder))

    def _of_this_boot(self, held: Held | None) -> Held | None:
        return held if held is not None and held.boot == self._clock.boot_id else None

    def _note(self, reason: str) -> None:
        known = self._known()
        since = known.since if known is not None else self._clock.monotonic()
        content = {"reason": reason, "boot": self._clock.boot_id, "since": since}
        write_whole(self._store.folder / FILE, json.dumps(content))


def read_held(folder: Path) -> Held | None:
    """Why a catalog is held back; None: none is. ``folder``: of the catalogs."""
    try:
        return Held(**json.loads((folder / FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _numbers(arrays: CatalogArrays, item_type: int) -> Int64:
    """Of the items of a type, ascending."""
    return np.asarray(arrays.item_id[slice(*rows_of(arrays, item_type))])


def _keys(arrays: CatalogArrays) -> Int64:
    return keys_of(arrays.type_number, arrays.type_offsets, arrays.item_id)


def without(
    current: Catalog, kept: Mask, report: BuildReport, names: dict[str, Any], item_time_zone: str
) -> BuiltCatalog:
    """The catalog with the items of ``kept`` (M,) alone; ages, people and orderings stay as of its build."""
    arrays = current.arrays
    number = (np.cumsum(kept) - 1).astype(np.int32)  # of an item that is kept

    def listed(offsets: Int64, items: Any) -> tuple[Int64, Any, Mask]:
        """Offsets and items of a list of lists, and which of its entries are left."""
        left = kept[items]
        return np.concatenate([[0], np.cumsum(left)])[offsets].astype(np.int64), number[items[left]], left

    ids, worded = arrays.item_id[kept], int(kept[: arrays.worded].sum())
    type_offsets = np.concatenate([[0], np.cumsum(kept)])[arrays.type_offsets].astype(np.int64)
    keys = keys_of(arrays.type_number, type_offsets, ids)
    hash_key, hash_item = hash_table(keys)
    creator_offsets, creator_items, _ = listed(arrays.creator_offsets, arrays.creator_items)
    order_offsets, order_items, _ = listed(arrays.order_offsets, arrays.order_items)
    token_offsets, token_items, _ = listed(arrays.token_offsets, arrays.token_items)
    pair_offsets, pair_items, _ = listed(arrays.pair_offsets, arrays.pair_items)
    history_offsets, history_items, history = listed(arrays.history_offsets, arrays.history_items)
    together = moved(
        NeighbourLists(arrays.neighbour_offsets, arrays.neighbour_items, arrays.neighbour_weight),
        _keys(arrays),
        keys,
    )
    columns = ("features", "hand", "tokens", "skill_count", "created", "creator", "city", "trending")
    return BuiltCatalog(
        arrays=arrays._replace(
            item_id=ids,
            type_offsets=type_offsets,
            **{name: getattr(arrays, name)[kept] for name in columns},
            hash_key=hash_key,
            hash_item=hash_item,
            creator_offsets=creator_offsets,
            creator_items=creator_items,
            order_offsets=order_offsets,
            order_items=order_items,
            token_offsets=token_offsets,
            token_items=token_items,
            pair_offsets=pair_offsets,
            pair_items=pair_items,
            history_offsets=history_offsets,
            history_items=history_items,
            history_weight=arrays.history_weight[history],
            history_when=arrays.history_when[history],
            neighbour_offsets=together.offsets,
            neighbour_items=together.items,
            neighbour_weight=together.weight,
            worded=worded,
        ),
        item_types=current.item_types,
        item_bodies=[current.item_json(item) for item in np.flatnonzero(kept).tolist()],
        names=names,
        report=report,
        # Later by as little as a version's name tells: ages are as of that build.
        built_at=datetime.fromisoformat(current.manifest["built_at"]) + timedelta(microseconds=1),
        policy_version=current.manifest["policy_version"],
        policy_digest=current.manifest["policy_digest"],
        added_features=current.added_features,
        item_time_zone=item_time_zone,
        not_personal=current.not_personal,
        item_texts=None if current.item_texts is None else Texts.of(current.item_texts.of_rows(np.flatnonzero(kept))),
        user_texts=current.user_texts,
        creator_texts=current.creator_texts,
        text_types=tuple(current.text_types),
        filters=tuple(kept_rows(column, kept) for column in current.filters),
        people_terms=current.manifest.get("people_terms"),
        mapping=current.manifest.get("mapping"),
    )


def _same_list(one: Int64 | None, other: Int64 | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)
