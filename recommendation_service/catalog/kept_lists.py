"""What people take together, from one build to the next.

Lists move slowly and cost more than all else of a build: a process that builds every few seconds computes them now and
then, and brings them to the catalog of the moment.
"""

import time
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from recommendation_service.catalog.collaborative import (
    NeighbourLists,
    best_half_life,
    closed_form,
    nearest_neighbours,
    no_lists,
    sequences_of,
    taken_lately,
)
from recommendation_service.catalog.measuring import (
    POPULARITY_SCALE,
    Popularity,
    Traits,
    last,
    liked,
    logarithmic,
    measure,
)
from recommendation_service.catalog.people import Interactions, places
from recommendation_service.catalog.report import CollaborativeReport, Measured
from recommendation_service.model.columns import Float32, Float64, Int64
from recommendation_service.policies.format import Collaborative, Measuring

MEASURED_FOR = 24  # times as long as lists
CLOSED_FORM, NEAREST_NEIGHBOURS, NOTHING = "slist", "item_knn", "none"


class TakenTogether(NamedTuple):
    """Of a catalog of M items."""

    lists: NeighbourLists
    trending: Float32  # (M,)
    report: CollaborativeReport
    popularity: Float64 | None = None  # (M,) the feature, where a policy has it measured
    measured: Measured | None = None


class _Kept(NamedTuple):
    settings: tuple[Collaborative, Measuring | None]
    computed: float  # seconds since 1970
    keys: Int64  # of the items that the lists are of
    lists: NeighbourLists
    report: CollaborativeReport
    measured: Measured | None = None
    measured_at: float = 0.0  # seconds since 1970


class KeptLists:
    """``refresh_seconds``: for so long lists are taken over, if the policy's section stays."""

    def __init__(self, refresh_seconds: float = 0.0) -> None:
        self._refresh_seconds = refresh_seconds
        self._kept: _Kept | None = None

    def of(
        self,
        interactions: Interactions,
        keys: Int64,
        now: float,
        settings: Collaborative | None,
        traits: Traits | None = None,
        *,
        wanted: bool,
    ) -> TakenTogether:
        """``keys``: of the catalog's items, in their order; ``traits``: of a policy that has its ranking measured;
        ``wanted``: whether the operator has lists on."""
        if settings is not None and traits is not None:
            return self._measured(interactions, keys, now, settings, traits, wanted=wanted)
        if settings is None or not wanted:
            reason = "the policy has no section collaborative" if settings is None else "COLLABORATIVE is false"
            return _nothing(len(keys), CollaborativeReport(NOTHING, reason))
        if not self._holds((settings, None), now):
            started = time.perf_counter()
            lists, report = _compute(interactions, len(keys), now, settings)
            report = replace(report, milliseconds=round((time.perf_counter() - started) * 1000, 1))
            self._kept = _Kept((settings, None), now, keys, lists, report)
        kept = self._kept
        assert kept is not None  # noqa: S101 - made above
        report = replace(kept.report, computed_seconds_ago=round(now - kept.computed, 1))
        if report.method == NOTHING:
            return _nothing(len(keys), report)
        lists = kept.lists if kept.keys is keys else moved(kept.lists, kept.keys, keys)
        taken = taken_lately(interactions, len(keys), now, report.half_life_days)
        return TakenTogether(lists, (taken / max(taken.max(initial=0.0), 1e-300)).astype(np.float32), report)

    def _holds(self, settings: tuple[Collaborative, Measuring | None], now: float) -> bool:
        kept = self._kept
        return kept is not None and kept.settings == settings and 0 <= now - kept.computed < self._refresh_seconds

    def _known(self, traits: Traits, now: float) -> tuple[Measured, float] | None:
        """What was measured lately enough: it moves more slowly than lists do, and takes lists of its own."""
        kept = self._kept
        if kept is None or kept.measured is None or kept.settings[1] != traits.settings:
            return None
        is_kept = 0 <= now - kept.measured_at < MEASURED_FOR * self._refresh_seconds
        return (kept.measured, kept.measured_at) if is_kept else None

    def _measured(
        self,
        interactions: Interactions,
        keys: Int64,
        now: float,
        settings: Collaborative,
        traits: Traits,
        *,
        wanted: bool,
    ) -> TakenTogether:
        """Lists with the weights that were measured; how much each item is liked is told by each build anew."""
        items = len(keys)
        if not self._holds((settings, traits.settings), now):
            started = time.perf_counter()

            def lists_of(until: Interactions, moment: float) -> NeighbourLists:
                return _compute(until, items, last(until, moment), settings)[0] if wanted else no_lists(items)

            measured, measured_at = self._known(traits, now) or (measure(interactions, traits, lists_of), now)
            lists, report = no_lists(items), CollaborativeReport(NOTHING, "COLLABORATIVE is false")
            if wanted:
                lists, report = _compute(interactions, items, last(interactions, now), settings)
            report = replace(
                report,
                half_life_days=measured.half_life_days,
                milliseconds=round((time.perf_counter() - started) * 1000, 1),
            )
            self._kept = _Kept((settings, traits.settings), now, keys, lists, report, measured, measured_at)
        kept = self._kept
        assert kept is not None and kept.measured is not None  # noqa: S101, PT018 - made above
        told = kept.measured
        lists = kept.lists if kept.keys is keys else moved(kept.lists, kept.keys, keys)
        lists = lists._replace(weight=(lists.weight * (told.together / told.closeness)).astype(np.float32))
        form = Popularity(told.half_life_days, told.by_exposure, told.evergreen)
        taken = liked(interactions, traits.created, now, form)
        return TakenTogether(
            lists,
            (taken / max(taken.max(initial=0.0), 1e-300)).astype(np.float32),
            replace(kept.report, computed_seconds_ago=round(now - kept.computed, 1)),
            logarithmic(taken) / told.closeness / POPULARITY_SCALE,
            told,
        )


def _compute(
    interactions: Interactions, items: int, now: float, settings: Collaborative
) -> tuple[NeighbourLists, CollaborativeReport]:
    sequences = sequences_of(interactions, settings)
    known, least = len(np.unique(sequences.item)), settings.least_interactions
    report = CollaborativeReport(
        interactions=len(sequences.item), people=len(sequences.lengths), items=known, half_life_days=0.0
    )
    if len(sequences.item) < least or known < 2:
        reason = f"too little: {len(sequences.item)} interactions by people with two or more, of {least} that it takes"
        return no_lists(items), replace(report, method=NOTHING, reason=reason)
    most = settings.closed_form.most_items
    if known <= most:
        method, reason = CLOSED_FORM, f"in closed form, up to {most} items"
        lists = closed_form(sequences, items, now, settings.closed_form, settings.neighbours)
    else:
        method, reason = NEAREST_NEIGHBOURS, f"more than {most} items"
        lists = nearest_neighbours(sequences, items, settings.neighbourhood, settings.neighbours)
    half_life = best_half_life(interactions, items, settings.half_lives_days)
    return lists, replace(report, method=method, reason=reason, half_life_days=half_life)


def _nothing(items: int, report: CollaborativeReport) -> TakenTogether:
    return TakenTogether(no_lists(items), np.zeros(items, np.float32), report)


def moved(lists: NeighbourLists, keys: Int64, new_keys: Int64) -> NeighbourLists:
    """The lists of the items ``keys`` as those of ``new_keys``: what is gone is left out, what is new has none."""
    order = np.argsort(new_keys)
    there = places(new_keys[order], keys)
    new = np.where(there < 0, -1, order[there]) if len(order) else there
    source, other = np.repeat(new, np.diff(lists.offsets)), new[lists.items]
    stays = (source >= 0) & (other >= 0)
    by_source = np.argsort(source[stays], kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(source[stays], minlength=len(new_keys)))])
    return NeighbourLists(
        offsets.astype(np.int64), other[stays][by_source].astype(np.int32), lists.weight[stays][by_source]
    )
