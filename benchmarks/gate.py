"""How often the gate promotes what is better, worse or as good, on feeds whose truth is known.

Slots are drawn from so many items by what serves, evenly, or by a version that is tilted as far that a hundred feeds of
what serves weigh as thirty of its own. A slot brings .15 on average, some people more than others.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from recommendation_service.learning.gate import Rules, judge, looks
from recommendation_service.learning.weighed import mixed
from recommendation_service.policies.evidence import BETTER, WORSE

Floats = npt.NDArray[np.float64]

RULES = Rules(50_000, 0.99, 0.0)  # as settings ship
LIVE_SHARE = 0.2
SUPPORT = 0.3  # effective sample, of feeds of what serves alone
BRINGS = 0.15  # a slot
ITEMS, PEOPLE = 20, 5_000
DIFFER = 4.0  # how much people bring is gamma distributed, with this shape
EACH = 500  # feeds of each version of a series
VERSIONS = 100
_HALVINGS = 30
NOW = datetime(2026, 11, 1, tzinfo=UTC)


class Case(NamedTuple):
    """``gain``: of what a feed brings, that one of the version brings more; ``versions``: 1, or so many in turn."""

    slots: int
    gain: float
    versions: int

    @property
    def name(self) -> str:
        one = f"{abs(self.gain):.0%} {'better' if self.gain > 0 else 'worse'}" if self.gain else "as good"
        return one if self.versions == 1 else f"a series, each {one}"


CASES = (
    *(Case(slots, gain, 1) for slots in (1, 6) for gain in (0.05, -0.01, 0.0)),
    *(Case(slots, -0.01, VERSIONS) for slots in (1, 6)),
)


class Ended(NamedTuple):
    verdict: str  # of the last look
    feeds: int


def _tilted(worths: Floats, aside: Floats, gain: float, squares: float) -> Floats:
    """(versions, items) odds of versions that each bring as much more, and whose weights' mean square is ``squares``.
    ``aside``: (versions, items) what else they are tilted to, and as much as it takes."""

    def at(far: Floats) -> Floats:
        low, high = np.full((len(aside), 1), -20.0), np.full((len(aside), 1), 20.0)
        for _ in range(_HALVINGS):
            towards = (low + high) / 2
            odds = np.exp(far * aside + towards * worths)
            odds /= odds.sum(axis=1, keepdims=True)
            is_less = (odds @ worths)[:, None] < gain
            low, high = np.where(is_less, towards, low), np.where(is_less, high, towards)
        return np.asarray(odds)

    low, high = np.zeros((len(aside), 1)), np.full((len(aside), 1), 10.0)
    for _ in range(_HALVINGS):
        far = (low + high) / 2
        is_less = ITEMS * np.square(at(far)).sum(axis=1, keepdims=True) < squares
        low, high = np.where(is_less, far, low), np.where(is_less, high, far)
    return at(low)


def try_once(case: Case, run: int) -> Ended:
    """A trial, to its end."""
    draw = np.random.default_rng([run, case.slots, case.versions, round(1000 * (1 + case.gain))])
    worths = draw.normal(size=ITEMS)
    worths = 0.15 * (worths - worths.mean()) / worths.std()  # beside the mean
    aside = draw.normal(size=(case.versions, ITEMS))
    versions = _tilted(worths, aside, case.gain, SUPPORT ** (-1 / case.slots))
    feeds, shape = RULES.most_feeds, (RULES.most_feeds, case.slots)
    version = np.arange(feeds) // EACH % case.versions
    persons, live = draw.integers(PEOPLE, size=feeds), draw.random(feeds) < LIVE_SHARE
    by_version = (np.cumsum(versions, axis=1)[version][:, None, :] < draw.random((*shape, 1))).sum(axis=2)
    chosen = np.where(live[:, None], np.minimum(by_version, ITEMS - 1), draw.integers(ITEMS, size=shape))
    brings = BRINGS * (1 + worths[chosen]) * draw.gamma(DIFFER, 1 / DIFFER, PEOPLE)[persons][:, None]
    rewards = (draw.random(shape) < brings).astype(float)
    logged, target = np.full(shape, 1 / ITEMS), versions[version[:, None], chosen]
    for look in looks(feeds):
        weighed = mixed(rewards[:look], logged[:look], target[:look], persons[:look], live[:look])
        verdict = judge(weighed, look, RULES, "", NOW, "").verdict
        if verdict in (BETTER, WORSE):
            break
    return Ended(verdict, look)


def _once(given: tuple[Case, int]) -> Ended:
    return try_once(*given)


def rows(runs: int, slots: Sequence[int], processes: Executor) -> list[dict[str, str | int | float]]:
    """For each case how its runs ended."""
    found, to_people = [], Console(stderr=True)
    for case in (case for case in CASES if case.slots in slots):
        jobs = [(case, run) for run in range(runs)]
        ended = list(track(processes.map(_once, jobs, chunksize=5), case.name, runs, transient=True, console=to_people))
        verdicts = Counter(one.verdict for one in ended)
        took = [one.feeds for one in ended if one.verdict == BETTER]
        found.append(
            {
                "version": case.name,
                "slots": case.slots,
                "runs": runs,
                "promoted": verdicts[BETTER],
                "found worse": verdicts[WORSE],
                "feeds, median": float(np.median(took)) if took else "-",
            }
        )
    return found
