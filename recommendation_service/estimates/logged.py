"""What an estimate is made from: what each slot of each feed brought, and how likely two policies were to fill it so.

Whatever was logged, by this service or by another, becomes this before it is weighed. Propensities are of what a slot
holds given the slots before it; so their product over a feed's slots is the feed's probability.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
# Of a million feeds half of what float64 takes; a slot's column is made float64 before anything is computed of it.
Table = Floats | npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class UnusableLog(Exception):
    """``problems`` names all of them, each in a sentence with place and value."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class Modelled(NamedTuple):
    """What a model of rewards says, NaN where a feed has no slot. It has to be fitted without the rewards of the feed's
    user."""

    chosen: Floats  # (feeds, slots) of what the slot held
    expected: Floats  # (feeds, slots) of what the target policy would draw there, given the slots before


@dataclass(frozen=True)
class LoggedFeeds:
    """n feeds of up to s slots, in the order in which they were made. Raises UnusableLog when it is built.

    A slot that nobody has seen brought 0. A feed that has fewer slots than others has NaN behind them.
    """

    rewards: Table  # (n, s)
    logged: Table  # (n, s) of the same type; propensity under the policy that served, above 0
    target: Table  # (n, s) likewise; under the one that is weighed; 0: it would not have done so
    users: Integers  # (n,) what one user does hangs together
    weights: Floats  # (n,) how many feeds each stands for: 1, or 1/(1 − the share that was dropped)
    modelled: Modelled | None = None

    def __post_init__(self) -> None:
        problems = list(self._misshapen()) or list(self._impossible())
        if problems:
            raise UnusableLog(problems)

    @property
    def feeds(self) -> int:
        return len(self.rewards)

    @property
    def brought(self) -> float:
        """By a feed, on average."""
        return (
            float(self.weights @ np.nansum(self.rewards, axis=1, dtype=np.float64) / self.weights.sum())
            if self.feeds
            else 0.0
        )

    @property
    def slots(self) -> int:
        """Of the longest feed."""
        return int(self.rewards.shape[1])

    def _tables(self) -> dict[str, Table]:
        tables: dict[str, Table] = {"rewards": self.rewards, "logged": self.logged, "target": self.target}
        if self.modelled is not None:
            tables |= {"modelled.chosen": self.modelled.chosen, "modelled.expected": self.modelled.expected}
        return tables

    def _misshapen(self) -> Iterator[str]:
        shape, kind = self.rewards.shape, self.rewards.dtype
        if self.rewards.ndim != 2 or kind not in (np.float64, np.float32):
            yield f"rewards: must be (feeds, slots) of float64 or float32, and is {shape} of {kind}"
            return
        for name, table in self._tables().items():
            wanted = np.dtype(np.float64) if name.startswith("modelled") else kind
            if table.shape != shape or table.dtype != wanted:
                yield f"{name}: must be {shape} of {wanted}, as rewards are, and is {table.shape} of {table.dtype}"
        for name, column, type_ in (("users", self.users, np.int64), ("weights", self.weights, np.float64)):
            if column.shape != shape[:1] or column.dtype != type_:
                yield f"{name}: must be {shape[:1]} of {type_.__name__}, and is {column.shape} of {column.dtype}"

    def _impossible(self) -> Iterator[str]:
        absent = np.isnan(self.rewards)
        reappears = absent[:, :-1] & ~absent[:, 1:]
        yield from _named("rewards", self.rewards[:, :-1], reappears, "is missing before the feed's end")
        for name, table in self._tables().items():
            differs = np.isnan(table) != absent
            yield from _named(name, table, differs, "must be missing where the reward is, and only there")
            yield from _named(name, table, np.isinf(table), "must be finite")
        yield from _named("logged", self.logged, (self.logged <= 0) | (self.logged > 1), "must be above 0, 1 at most")
        yield from _named("target", self.target, (self.target < 0) | (self.target > 1), "must be between 0 and 1")
        strange = ~(np.isfinite(self.weights) & (self.weights > 0))
        yield from _named("weights", self.weights, strange, "must be finite and above 0")


def _named(name: str, values: Table, wrong: npt.NDArray[np.bool_], rule: str) -> Iterator[str]:
    """The first that is wrong, and how many there are."""
    count = int(np.count_nonzero(wrong))
    if count == 0:
        return
    place = tuple(int(each) for each in np.unravel_index(int(wrong.argmax()), wrong.shape))
    where = f"feed {place[0]}" + (f", slot {place[1]}" if len(place) > 1 else "")
    others = f" (and {count - 1:,} more)" if count > 1 else ""
    yield f"{name} of {where} is {values[place]:g}: it {rule}{others}"
