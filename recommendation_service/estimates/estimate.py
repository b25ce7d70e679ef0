"""One log, one target policy: what can be said about the difference, or why nothing can.

The figure that decides is the paired difference to what was logged: both see the same feeds, and what these have in
common falls out. docs/evidence.md says how to read the rest.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recommendation_service.estimates.intervals import NOTHING, Estimate, Mean, Sum, Users
from recommendation_service.estimates.logged import Floats, LoggedFeeds, Modelled
from recommendation_service.estimates.sequences import Bounds, Gains
from recommendation_service.estimates.weights import CUT, Slot, by_slot, effective_sample_size, whole_feed_weights

CONFIDENCE = 0.95
# Of the effective sample sizes of all slots, the least: under the first an estimate warns, under the second it refuses.
FEW, TOO_FEW = 300, 100
# Under so many, intervals that are clustered by user are too narrow.
FEW_USERS = 50
# Of the feeds' slots that brought anything, by their weights, so many have to carry the estimate.
FEW_REWARDS = 30
# A slot that a smaller share of feeds has is left out: it would decide about the support and hardly about the value.
LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Estimates:
    """Of the reward of a feed under the target policy. Where there is a refusal, no estimate is a number; the sequence
    holds nevertheless."""

    feeds: int
    users: int
    logged: float  # mean reward of a feed
    estimate: Estimate  # by the products up to each slot, self-normalised: the one to go by
    guardrail: Estimate  # by the same cut at 10, which pulls the target towards the policy that served; its lower bound
    # is the lower of both
    whole_feed: Estimate  # by the product of all slots: right too where later slots change what earlier ones bring
    single: Estimate  # by each slot's ratio alone: wrong where a choice changes what may follow; shown to be known
    doubly_robust: Estimate | None  # by products and a model of rewards; None: no model was given
    sequence: Bounds  # of the difference; holds at every moment
    ess: Floats  # (slots,) effective sample size
    largest_weights: Floats  # (slots,)
    support: Floats  # (slots,) share of feeds that the target might have made up to there
    effective_rewards: float  # effective sample size of the slots that brought anything, of all slots together
    warnings: tuple[str, ...] = ()
    refusal: str | None = None

    @property
    def value(self) -> float:
        return self.estimate.value

    @property
    def difference(self) -> float:
        return self.estimate.difference

    @property
    def lower(self) -> float:
        return self.estimate.lower

    @property
    def upper(self) -> float:
        return self.estimate.upper

    @property
    def slots(self) -> int:
        """How many are in the estimate."""
        return len(self.ess)

    @property
    def verdict(self) -> str:
        if self.refusal is not None:
            return "refused"
        if min(self.lower, self.guardrail.lower) > 0:
            return "better"
        return "worse" if self.upper < 0 else "not told apart"

    def summary(self) -> dict[str, Any]:
        """For JSON: what is not finite is null."""
        estimators = ("estimate", "guardrail", "doubly_robust", "whole_feed", "single", "sequence")
        figures = {name: each._asdict() for name in estimators if (each := getattr(self, name)) is not None}
        return {
            "verdict": self.verdict,
            "refusal": self.refusal,
            "warnings": list(self.warnings),
            "feeds": self.feeds,
            "users": self.users,
            "logged": _number(self.logged),
            **{name: {key: _number(value) for key, value in each.items()} for name, each in figures.items()},
            "effective_sample_size": [_number(value) for value in self.ess.tolist()],
            "largest_weight": [_number(value) for value in self.largest_weights.tolist()],
            "effective_rewards": _number(self.effective_rewards),
            "support": [_number(value) for value in self.support.tolist()],
        }


def estimate(
    feeds: LoggedFeeds,
    slots: int | None = None,
    bounds: tuple[float, float] | None = None,
    confidence: float = CONFIDENCE,
) -> Estimates:
    """``slots``: so many of each feed are weighed, None: those that at least a hundredth of the feeds has; ``bounds``:
    the least and the most that a slot may bring, None: that one of these did."""
    users = Users(feeds.users)
    has = _shares(feeds)
    weighed = min(int(np.count_nonzero(has >= LEAST_SHARE)), feeds.slots if slots is None else slots)
    whole = whole_feed_weights(feeds, weighed)
    sums = {name: Sum(users) for name in ("estimate", "guardrail", "whole_feed", "single")}
    robust = Sum(users) if feeds.modelled is not None else None
    logged, before = 0.0, np.ones(feeds.feeds)
    carried, squares = 0.0, 0.0
    ess, largest, support = np.zeros(weighed), np.zeros(weighed), np.zeros(weighed)
    for slot in by_slot(feeds, weighed):
        place, rows, base, rewards = slot.place, slot.rows, slot.base, slot.rewards
        of = users.of(rows)
        as_logged = users.mean(of, base, rewards)
        logged += float(has[place]) * as_logged.value
        weights = {
            "estimate": slot.products,
            "guardrail": np.minimum(slot.products, CUT),
            "whole_feed": whole[rows],
            "single": slot.ratios,
        }
        for name, each in weights.items():
            sums[name].add(float(has[place]), users.mean(of, base * each, rewards), as_logged)
        if feeds.modelled is not None and robust is not None:
            mean = _doubly_robust(feeds.modelled, users, slot, before[rows])
            robust.add(float(has[place]), mean, as_logged)
            before[rows] = slot.products
        brought = base * slot.products * np.abs(rewards)
        carried, squares = carried + float(brought.sum()), squares + float(np.square(brought).sum())
        ess[place] = effective_sample_size(base * slot.products)
        largest[place] = slot.products.max(initial=0.0)
        support[place] = base[slot.products > 0].sum() / base.sum()
    one, guardrail, whole_feed, single = (sums[name].estimate(confidence) for name in sums)
    # The cut pulls a worse target up as it pulls a better one down.
    guardrail = guardrail._replace(lower=min(guardrail.lower, one.lower))
    found = Estimates(
        feeds=feeds.feeds,
        users=users.count,
        logged=logged,
        estimate=one,
        guardrail=guardrail,
        whole_feed=whole_feed,
        single=single,
        doubly_robust=robust.estimate(confidence) if robust is not None else None,
        sequence=Gains(feeds, weighed, bounds).bounds(confidence),
        ess=ess,
        largest_weights=largest,
        support=support,
        effective_rewards=carried**2 / squares if 0.0 < squares < np.inf else 0.0,
    )
    reason = _reason_to_refuse(found)
    if reason is None:
        return replace(found, warnings=tuple(_doubts(found, feeds.slots if slots is None else weighed)))
    return replace(
        found,
        estimate=NOTHING,
        guardrail=NOTHING,
        whole_feed=NOTHING,
        single=NOTHING,
        doubly_robust=None if robust is None else NOTHING,
        refusal=reason,
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _shares(feeds: LoggedFeeds) -> Floats:
    """(slots,) of the feeds, that have each."""
    if feeds.feeds == 0:
        return np.zeros(feeds.slots)
    all_feeds = feeds.weights.sum()
    return np.array([feeds.weights[~np.isnan(column)].sum() / all_feeds for column in feeds.rewards.T])


def _doubly_robust(modelled: Modelled, users: Users, slot: Slot, before: Floats) -> Mean:
    """What a model expects of the target, and by the products what it leaves over (Kiyohara et al. 2022, "Doubly robust
    off-policy evaluation for ranking policies under the cascade behavior model", WSDM). ``before``: (m,) the products
    up to the slot before."""
    place, rows, base = slot.place, slot.rows, slot.base
    of = users.of(rows)
    left_over = slot.rewards - modelled.chosen[rows, place]
    above = users.mean(of, base * slot.products, left_over)
    expected = users.mean(of, base * before, modelled.expected[rows, place])
    return Mean(above.value + expected.value, above.without + expected.without)


def _reason_to_refuse(found: Estimates) -> str | None:
    if found.feeds == 0:
        return "There is no feed to weigh."
    if found.slots == 0:
        return "No feed has a slot."
    if found.users < 2:
        return "All feeds are of one user: nothing says how far another would differ."
    least = int(found.ess.argmin())
    if found.ess[least] < TOO_FEW:
        enough = int(np.argmax(found.ess < TOO_FEW))
        way_out = f" The first {enough} slots alone can be weighed." if enough else ""
        return (
            f"Slot {least + 1} has an effective sample size of {found.ess[least]:,.1f} of {found.feeds:,} feeds, under "
            f"{TOO_FEW}: the policies are too far apart for these feeds to tell.{way_out}"
        )
    if not np.isfinite(found.estimate).all():
        return "The estimate is no finite number."
    return None


def _doubts(found: Estimates, slots: int) -> Iterator[str]:
    least = int(found.ess.argmin())
    if found.ess[least] < FEW:
        yield (
            f"Slot {least + 1} has an effective sample size of {found.ess[least]:,.0f}, under {FEW}: intervals are too "
            "narrow and may be off to a side. Go by the guardrail and the sequence."
        )
    if found.effective_rewards < FEW_REWARDS:
        yield (
            f"No more than {found.effective_rewards:,.1f} rewards, by their weights, carry the estimate, under "
            f"{FEW_REWARDS}: intervals are too narrow and may be off to a side. Go by the sequence, or wait."
        )
    if found.users < FEW_USERS:
        yield f"{found.users} users are few: intervals, which are by user, are too narrow."
    if slots > found.slots:
        yield f"Slots from {found.slots + 1} on are left out: less than 1 % of the feeds has them."
