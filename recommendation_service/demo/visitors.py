"""Simulated people: what each likes, how that drifts, and what they do with a feed.

A person likes some fields of work, which is read from an item's words, and all share an appetite for what is recent,
near, well rated, … of what a feed has: the features that an explanation gives. Both turn: at any time a taste is on
its way from one direction to an unrelated one, and is there after the time that one sets. So a ranking that was right
once is wrong later, and what is learned has to follow.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recommendation_service.demo.vocabulary import vocabulary

Floats = npt.NDArray[np.float64]
Item = Mapping[str, Any]

# What all have an appetite for, of an explanation's features: of each, more or less than they are used to.
APPETITES = ("skill_similarity", "attribute_match", "same_city", "recency", "quality", "popularity")
# How much the fields and the appetite decide, beside each other and beside chance.
FIELDS_COUNT, APPETITE_COUNTS, AVERSION = 1.0, 2.5, -1.2
# They are used to the first so many items that any of them was shown. What is more than so many deviations from that is
# no more than that to them.
USED_TO, FURTHEST = 1_000, 3.0
# Whoever looks at an item goes on to the next with this probability.
GOES_ON = 0.93
FULL_SECONDS = 30.0
# What a deed is worth, as docs/learning.md has it: so that a feed can be told from a better one.
WORTH = {"impression": 0.0, "like": 0.5, "save": 0.6, "match": 1.0, "skip": -0.2, "hide": -1.0}
VIEW_WORTH = 0.3


class Turning:
    """A direction that is another, unrelated one after each ``drift_seconds``. ``dimensions``: at least 2."""

    def __init__(self, random: np.random.Generator, dimensions: int, drift_seconds: float) -> None:
        self._random = random
        self._drift = drift_seconds
        self._from, self._to = (_direction(random, dimensions) for _ in range(2))
        self._since = 0.0

    def at(self, seconds: float) -> Floats:
        """A unit vector. ``seconds``: since the beginning, never less than at the last call."""
        while seconds - self._since >= self._drift:
            self._since += self._drift
            self._from, self._to = self._to, _direction(self._random, len(self._to))
        angle = math.pi / 2 * (seconds - self._since) / self._drift
        turned = math.cos(angle) * self._from + math.sin(angle) * self._to
        return np.asarray(turned / np.linalg.norm(turned))


def _direction(random: np.random.Generator, dimensions: int) -> Floats:
    drawn = random.normal(size=dimensions)
    return np.asarray(drawn / np.linalg.norm(drawn))


class Usual:
    """How much of each feature people are used to, all of them alike. What is judged beside that, and not beside the
    other items of its feed, makes a feed that has more of what is liked worth more."""

    def __init__(self) -> None:
        self._items = np.empty((len(APPETITES), 0))

    def beside(self, items: list[Item]) -> Floats:
        """(appetites, items) features, each about 0 with a deviation of 1; 0 where all are alike."""
        X = np.array(
            [[float(item["why"]["features"].get(name, 0.0)) for item in items] for name in APPETITES], np.float64
        ).reshape(len(APPETITES), len(items))
        if self._items.shape[1] < USED_TO:
            self._items = np.concatenate([self._items, X], axis=1)
        middle, deviation = (one(self._items, axis=1, keepdims=True) for one in (np.mean, np.std))
        differs = np.divide(X - middle, deviation, out=np.zeros_like(X), where=deviation > 1e-9)
        return np.asarray(np.clip(differs, -FURTHEST, FURTHEST))


@dataclass
class Visitor:
    """One person. ``fields``: the taste for fields of work."""

    user_id: int
    fields: Turning
    random: np.random.Generator
    usual: Usual
    visits: int = 0

    def look(self, items: list[Item], appetite: Floats, seconds: float) -> "Visit":
        """What the person does with a feed that is explained."""
        self.visits += 1
        taste = self.fields.at(seconds) * math.sqrt(len(vocabulary().fields))
        wants = appetite @ self.usual.beside(items)
        visit = Visit()
        for position, item in enumerate(items):
            if position and self.random.random() > GOES_ON:
                break
            liking = FIELDS_COUNT * taste[field_of(item)] + APPETITE_COUNTS * wants[position] + AVERSION
            visit.add(item, position, list(self._deeds(1 / (1 + math.exp(-liking)))))
        return visit

    def _deeds(self, liking: float) -> Iterator[tuple[str, float | None]]:
        """Names of events, and of a view the share that was watched. ``liking``: a probability."""
        yield "impression", None
        draw = self.random.random
        if draw() < liking:
            yield "view", float(self.random.beta(2 + 6 * liking, 2))
            for event, share in (("like", 0.5), ("save", 0.2), ("match", 0.15)):
                if draw() < share * liking:
                    yield event, None
        elif draw() < 0.3:
            yield "skip", None
        elif draw() < 0.01:
            yield "hide", None


class Visit:
    """What a person did with a feed, as /feedback takes it, and what it is worth."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.reward = 0.0

    def add(self, item: Item, position: int, deeds: list[tuple[str, float | None]]) -> None:
        worth = 0.0
        for name, share in deeds:
            event = {"event": name, "item_type": item["type"], "item_id": item["id"], "position": position}
            if share is not None:
                event["watch_seconds"] = round(share * FULL_SECONDS, 1)
            self.events.append(event)
            worth += VIEW_WORTH * share if share is not None else WORTH[name]
        self.reward += min(1.0, max(-1.0, worth))


def field_of(item: Item) -> int:
    """Index of the field of work that an item's words are of, the likeliest; of one without such words, any."""
    said = " ".join(str(item.get(name, "")) for name in ("description", "name"))
    listed = {*item.get("role_objectives", ()), *item.get("interest_areas", ())}
    counts = [
        sum(word in said for word in (*one.skills, *one.knowledges, *one.tools, *one.challenges))
        + sum(word in listed for word in (*one.skills, *one.knowledges, *one.objectives))
        for one in vocabulary().fields
    ]
    best = max(range(len(counts)), key=counts.__getitem__)
    return best if counts[best] else int(item["id"]) % len(counts)
