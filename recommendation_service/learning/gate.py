"""The gate: what a look at a version's evidence says, and when one looks.

A version is better where the lower bound of what its feeds bring more than those of the one that serves is above 0, or
above the loss that is tolerated. Looks are at half as many feeds as the next one, the last at ``most``; each spends of
the error that is allowed what its new feeds are of all, so that a version that is not better is found to be with that
probability at most, however often one looked (Lan and DeMets 1983, "Discrete sequential boundaries for clinical
trials", Biometrika). What is near the bound at one look is near it at the next, as half of the feeds are the same; so
the bound of each is the one that is crossed for the first time with the error that it spends (Armitage, McPherson and
Rowe 1969, "Repeated significance tests on accumulating data", JRSS A). Where people come again looks hang together more
closely than that, and fewer errors are made.
"""

from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from math import erfc
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.estimates.estimate import FEW, FEW_USERS, Estimates, estimate
from recommendation_service.estimates.intervals import Estimate
from recommendation_service.estimates.logged import UnusableLog
from recommendation_service.estimates.people import without_habits
from recommendation_service.learning.weighed import WeighedFeeds
from recommendation_service.policies.evidence import BETTER, OPEN, REFUSED, WORSE, Look

Floats = npt.NDArray[np.float64]

FIRST_LOOK = 500  # with fewer feeds one does not look
_GRID, _HALVINGS = 400, 40  # points of a density, and steps of the search for a bound
NEGLIGIBLE = 1e-3  # share of what a feed brings; less is nobody's gain, and records round propensities


class Rules(NamedTuple):
    """``confidence``: that what is found to be better is; ``tolerated_loss``: share of what a feed brings."""

    most_feeds: int
    confidence: float
    tolerated_loss: float


def looks(most: int) -> list[int]:
    """After how many feeds."""
    found = [most]
    while found[0] // 2 >= FIRST_LOOK:
        found.insert(0, found[0] // 2)
    return found


def due(feeds: int, looked: int, most: int) -> int | None:
    """The look that so many feeds are enough for, after one at ``looked`` feeds."""
    return next((at for at in reversed(looks(most)) if looked < at <= feeds), None)


def error_of(look: int, rules: Rules) -> float:
    """With which its bound on one side is too narrow, whatever was before."""
    return _errors(rules.most_feeds, rules.confidence)[look]


@lru_cache
def _errors(most: int, confidence: float) -> dict[int, float]:
    """Of each look. What is estimated, times the feeds, goes as a Brownian motion; ``density`` is where it is, of those
    that crossed no bound yet."""
    found: dict[int, float] = {}
    at, density = np.zeros(1), np.ones(1)
    before = 0
    for look in looks(most):
        spends, step = (1.0 - confidence) * (look - before) / most, ((look - before) / most) ** 0.5

        def crossed(bound: float, at: Floats = at, density: Floats = density, step: float = step) -> float:
            return float(density @ _above((bound - at) / step))

        low, high = 0.0, 8.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if crossed(middle) > spends else (low, middle)
        here = np.linspace(-8.0 * (look / most) ** 0.5, high, _GRID)
        steps = (here[:, np.newaxis] - at) / step
        after = (np.exp(-(steps**2) / 2) / (step * (2 * np.pi) ** 0.5)) @ density
        widths = np.full(_GRID, here[1] - here[0])
        widths[[0, -1]] /= 2
        at, density, before = here, after * widths, look
        found[look] = float(_above(np.array([high / (look / most) ** 0.5]))[0])
    return found


def _above(values: Floats) -> Floats:
    """Probability that a normal deviate is."""
    return np.array([erfc(value / 2**0.5) / 2 for value in values.tolist()])


def judge(feeds: WeighedFeeds | UnusableLog, look: int, rules: Rules, against: str, when: datetime, who: str) -> Look:
    """``look``: one of ``looks``, which the feeds are enough for."""
    error = error_of(look, rules)
    if isinstance(feeds, UnusableLog):
        words = f"The feeds cannot be weighed: {feeds.problems[0]}."
        return told(None, look, 1.0 - error, REFUSED, words, against, when, who)
    beside = estimate(without_habits(feeds.logged), confidence=1.0 - 2.0 * error)
    found = _beside_what_serves(replace(beside, logged=feeds.logged.brought), feeds.live_share)
    verdict, words = _verdict(found, rules)
    return told(found, look, 1.0 - error, verdict, words, against, when, who)


def _beside_what_serves(found: Estimates, live_share: float) -> Estimates:
    """A part s of what was shown is the version's own, V(shown) = (1 − s) V(serves) + s V(version), so that its
    difference to what was shown is 1 − s of that to what serves."""

    def whole(one: Estimate) -> Estimate:
        return Estimate(one.value, *(each / (1.0 - live_share) for each in one[1:]))

    one, guardrail = whole(found.estimate), whole(found.guardrail)
    known = one.difference if np.isfinite(one.difference) else 0.0
    return replace(found, estimate=one, guardrail=guardrail, logged=found.logged - live_share * known)


def _verdict(found: Estimates, rules: Rules) -> tuple[str, str]:
    lower, upper = _lower(found), found.upper
    tolerated, negligible = (share * abs(found.logged) for share in (rules.tolerated_loss, NEGLIGIBLE))
    change = f"{found.difference:+.4f} a feed ({lower:+.4f} to {upper:+.4f}) beside {found.logged:.4f}"
    verdict, words = OPEN, f"Nothing can be told yet: {change}."
    if found.refusal is not None:
        verdict, words = REFUSED, found.refusal
    elif not np.isfinite([found.difference, lower, upper]).all():
        verdict, words = REFUSED, "The estimate is no finite number."
    elif tolerated == 0 and -negligible <= lower and upper <= negligible:
        words = f"It brings the same: {change}."
    elif upper < -tolerated:
        verdict, words = WORSE, f"It brings less: {change}."
    elif found.ess.min() < FEW:
        words = f"Too little support: {change}, with an effective sample size of {found.ess.min():,.0f}, under {FEW}."
    elif found.users < FEW_USERS:
        words = f"Too few people: {change}, of {found.users} people, and {FEW_USERS} are needed."
    elif lower > -tolerated:
        at_least = f"at most {rules.tolerated_loss:.1%} less" if tolerated > 0 else "more"
        verdict, words = BETTER, f"It brings {at_least}: {change}."
    return verdict, words


def _lower(found: Estimates) -> float:
    return min(found.estimate.lower, found.guardrail.lower)


def told(
    found: Estimates | None,
    feeds: int,
    confidence: float,
    verdict: str,
    words: str,
    against: str,
    when: datetime,
    who: str,
) -> Look:
    """What is kept of a look. ``confidence``: of either bound."""
    is_told = found is not None and found.refusal is None
    return Look(
        when=when.isoformat(timespec="milliseconds"),
        who=who,
        against=against,
        verdict=verdict,
        words=words,
        feeds=feeds,
        users=found.users if found is not None else 0,
        confidence=confidence,
        logged=_number(found.logged) if found is not None else None,
        difference=_number(found.difference) if found is not None and is_told else None,
        lower=_number(_lower(found)) if found is not None and is_told else None,
        upper=_number(found.upper) if found is not None and is_told else None,
        effective_sample_size=float(found.ess.min(initial=np.inf)) if found is not None and found.slots else 0.0,
        largest_weight=float(found.largest_weights.max(initial=0.0)) if found is not None else 0.0,
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
