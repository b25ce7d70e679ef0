"""The limits inside a feed, as docs/architecture.md says them, one item against what was chosen before."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tests.support.catalogs import Item, Key, Video

# In the order in which they give way; a set of rules is heavier the heavier its heaviest rule.
ORDER = ("skill_novelty", "creator_window", "slot_kind", "seen")
CREATOR_WINDOW = 12
NOVELTY_AFTER_SKILLS = 3
_WEIGHTS = {rule: 1 << place for place, rule in enumerate(ORDER)}
VIDEO_KINDS = ("VMP", "AU", "NU")


def weight_of(rules: Collection[str]) -> int:
    """A set of rules as a binary number, for comparison."""
    return sum(_WEIGHTS[rule] for rule in rules)


def skills_of(item: Item) -> frozenset[str]:
    """The skills that count: one spelling, no repetitions, the first five."""
    return _first_skills(item.skills) if isinstance(item, Video) else frozenset()


@functools.cache  # millions of times the same few
def _first_skills(names: tuple[str, ...]) -> frozenset[str]:
    spelled = dict.fromkeys(" ".join(name.split()).casefold() for name in names if name.strip())
    return frozenset(list(spelled)[:5])


@dataclass(frozen=True)
class Pools:
    """The pools of one feed, by kind, and what the user has seen."""

    by_kind: dict[str, set[Key]]
    seen: Collection[Key]

    @functools.cached_property
    def _in_any(self) -> set[Key]:
        return set().union(*self.by_kind.values())

    def breaks_slot_kind(self, item: Item, kind: str) -> bool:
        """An unseen item belongs to the kinds whose pools hold it, and what no pool holds, or was seen, to all
        kinds of its type."""
        own_type = "resume" if kind in VIDEO_KINDS else "challenge"
        if item.key[0] != own_type:
            return True
        if item.key in self.seen or item.key in self.by_kind[kind]:
            return False
        return item.key in self._in_any


class FeedSoFar:
    """What was chosen for the first slots."""

    def __init__(self, pools: Pools) -> None:
        self.pools = pools
        self.items: list[Item] = []
        self.keys: set[Key] = set()
        self.skills: set[str] = set()
        self.recent: set[int] = set()  # creators

    def place(self, item: Item) -> None:
        self.items.append(item)
        self.keys.add(item.key)
        self.skills.update(skills_of(item))
        self.recent = {earlier.creator for earlier in self.items[-(CREATOR_WINDOW - 1) :]}

    def broken_by(self, item: Item, kind: str) -> frozenset[str]:
        """The rules that ``item`` would break in the next slot, which asks for ``kind``."""
        broken = set()
        if self._brings_nothing_new(item):
            broken.add("skill_novelty")
        if item.creator in self.recent:
            broken.add("creator_window")
        if self.pools.breaks_slot_kind(item, kind):
            broken.add("slot_kind")
        if item.key in self.pools.seen:
            broken.add("seen")
        return frozenset(broken)

    def eligible(self, items: Sequence[Item], kind: str, relaxed: Collection[str]) -> list[Item]:
        """Those of ``items`` that are not in the feed and break nothing but what is relaxed."""
        return [item for item in items if item.key not in self.keys and self.broken_by(item, kind) <= set(relaxed)]

    def _brings_nothing_new(self, item: Item) -> bool:
        if not isinstance(item, Video) or len(self.skills) < NOVELTY_AFTER_SKILLS:
            return False
        return skills_of(item) <= self.skills
