"""What policies would have brought on a log: as Vowpal Wabbit counts it, and what can be told from that.

By slot, from the products of the ratios of all slots up to it; the ratio of a slot alone, which is what Vowpal Wabbit
adds up with ``--all_slots_loss``, stands beside it. Of slates there is one reward, and its weight is
Σ ratios − slots + 1 (Swaminathan et al. 2017, "Off-policy evaluation for slate recommendation").
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from recommendation_service.dsjson.decision import Decision, Form
from recommendation_service.dsjson.policies import CannotWeigh, NamedPolicy
from recommendation_service.estimates.estimate import FEW, LEAST_SHARE, TOO_FEW, estimate
from recommendation_service.estimates.intervals import NOTHING, Estimate, Sum, Users
from recommendation_service.estimates.logged import Floats, Integers, LoggedFeeds
from recommendation_service.estimates.weights import by_slot, effective_sample_size


@dataclass(frozen=True)
class SlotValue:
    """Rewards an event; NaN where nothing can be told."""

    slot: int  # from 1 on
    logged: float
    ips: float
    snips: float
    own_ratio: float  # IPS by the ratio of the slot alone: of CCB the answer to another question
    ess: float
    largest_weight: float


@dataclass(frozen=True)
class PolicyValue:
    """Of one policy. ``estimate.difference`` and its bounds are what decides; NaN where it was refused."""

    policy: str
    slots: Sequence[SlotValue]
    estimate: Estimate
    refusal: str | None = None
    warnings: Sequence[str] = ()

    @property
    def ips(self) -> float:
        return sum(slot.ips for slot in self.slots)

    @property
    def snips(self) -> float:
        return sum(slot.snips for slot in self.slots)

    @property
    def own_ratio(self) -> float:
        return sum(slot.own_ratio for slot in self.slots)

    @property
    def logged(self) -> float:
        return sum(slot.logged for slot in self.slots)

    @property
    def ess(self) -> float:
        """Of the slot of which least can be told."""
        return min((slot.ess for slot in self.slots), default=0.0)

    @property
    def verdict(self) -> str:
        if self.refusal is not None:
            return "refused"
        if self.estimate.lower > 0:
            return "better"
        return "worse" if self.estimate.upper < 0 else "not told apart"


class Weighing:
    """Of one log, a decision after the other: some numbers are kept of each, whatever the line's length."""

    def __init__(self, policies: Sequence[NamedPolicy]) -> None:
        self._policies = policies
        self._form: Form | None = None
        self._weights = array("d")
        self._rewards = array("d")  # of slates one an event; of the others one a slot
        self._ends = array("Q", [0])  # where an event's slots end in those that follow
        self._logged = array("d")
        self._target = {policy.name: array("d") for policy in policies}
        self._impossible: dict[str, str] = {}

    def add(self, decision: Decision) -> None:
        self._form = decision.form
        self._weights.append(decision.weight)
        self._rewards.extend(decision.rewards)
        self._logged.extend(slot.propensity for slot in decision.slots)
        self._ends.append(len(self._logged))
        for name, weigher in self._policies:
            if name in self._impossible:
                continue
            try:
                self._target[name].extend(weigher(decision))
            except CannotWeigh as error:
                self._impossible[name] = f"{name}: {error}."

    def values(self) -> list[PolicyValue]:
        return [self._value(policy.name) for policy in self._policies]

    def _value(self, name: str) -> PolicyValue:
        if name in self._impossible:
            return PolicyValue(name, (), NOTHING, self._impossible[name])
        if not self._weights:
            return PolicyValue(name, (), NOTHING, "There is no event to weigh.")
        logged, target = np.array(self._logged), np.array(self._target[name])
        weights, rewards = np.array(self._weights), np.array(self._rewards)
        if self._form is Form.SLATES:
            return _of_slates(name, weights, rewards, target / logged, np.array(self._ends, np.int64))
        ends = np.array(self._ends, np.int64)
        return _of_feeds(name, ends[1:] - ends[:-1], weights, rewards, logged, target)


def _of_feeds(
    name: str, lengths: Integers, weights: Floats, rewards: Floats, logged: Floats, target: Floats
) -> PolicyValue:
    """What fewer than a hundredth of the events has is left out, as one long line must not widen all rows."""
    longest = int(lengths.max())
    shares = [float(weights[lengths > place].sum() / weights.sum()) for place in range(longest)]
    width = sum(share >= LEAST_SHARE for share in shares)
    place = np.arange(len(logged)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    is_in = place < width
    rows = np.repeat(np.arange(len(lengths)), lengths)[is_in]

    def table(flat: Floats) -> Floats:
        filled = np.full((len(lengths), width), np.nan)
        filled[rows, place[is_in]] = flat[is_in]
        return filled

    feeds = LoggedFeeds(table(rewards), table(logged), table(target), np.arange(len(lengths)), weights)
    found = estimate(feeds)
    warnings = list(found.warnings)
    if width < longest:
        warnings.append(f"Slots from {width + 1} on are left out: less than 1 % of the events has them.")
    return PolicyValue(name, slot_values(feeds), found.estimate, found.refusal, warnings)


def slot_values(feeds: LoggedFeeds) -> list[SlotValue]:
    """Per event, not per event that has the slot: so slots add up."""
    whole = feeds.weights.sum()
    found = []
    for slot in by_slot(feeds, feeds.slots):
        weighted = slot.base * slot.rewards
        share, products = slot.base.sum() / whole, (slot.base * slot.products).sum()
        value = float((weighted * slot.products).sum())
        found.append(
            SlotValue(
                slot.place + 1,
                logged=float(weighted.sum() / whole),
                ips=value / float(whole),
                snips=float(share * value / products) if products > 0 else np.nan,
                own_ratio=float((weighted * slot.ratios).sum() / whole),
                ess=effective_sample_size(slot.base * slot.products),
                largest_weight=float(slot.products.max(initial=0.0)),
            )
        )
    return found


def _of_slates(name: str, weights: Floats, rewards: Floats, ratios: Floats, ends: Integers) -> PolicyValue:
    """Weights may be negative here, and add up to 1 an event in the mean all the same."""
    products = np.array([ratios[first:last].sum() - (last - first) + 1 for first, last in pairwise(ends)])
    weighted = weights * rewards
    value, whole = float((weighted * products).sum()), float((weights * products).sum())
    logged = float(weighted.sum() / weights.sum())
    ess = effective_sample_size(np.abs(weights * products))
    slot = SlotValue(
        1,
        logged=logged,
        ips=value / float(weights.sum()),
        snips=value / whole if whole > 0 else np.nan,
        own_ratio=value / float(weights.sum()),
        ess=ess,
        largest_weight=float(products.max(initial=0.0)),
    )
    refusal = None
    if not ess >= TOO_FEW:
        refusal = (
            f"The effective sample size is {ess:,.1f} of {len(weights):,} events, under {TOO_FEW}: the policies are "
            "too far apart for these events to tell."
        )
        return PolicyValue(name, [slot], NOTHING, refusal)
    rows = np.arange(len(weights))
    users = Users(rows)
    of, found = users.of(rows), Sum(users)
    found.add(1.0, users.mean(of, weights * products, rewards), users.mean(of, weights, rewards))
    warnings = [f"The effective sample size is {ess:,.0f}, under {FEW}: intervals are too narrow."] if ess < FEW else []
    return PolicyValue(name, [slot], found.estimate(0.95), None, warnings)
