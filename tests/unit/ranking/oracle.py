"""Today's ranking, computed slowly and obviously: one user and one item at a time, from descriptions.

Its numbers are those of the document and not those of the policy file, so that a slip in the file shows too;
what a policy may set freely (sizes of pools, temperature, α, and the models) is taken from the policy.

What the document leaves open is decided like this: days are fractional, as of the catalog's build; "scaled to 0-1
over the catalog" divides by the largest; lists are brought to one spelling, freed of repetitions, then cut;
the history's tokens and cities are those of the latest 80 video interactions in the catalog; a profile counts
only where the history gives no tokens; who has neither is "without history", even for a video without skills;
the unknown city is the same as no other; connections hold both ways.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from recommendation_service.model.kinds import KINDS
from recommendation_service.policies.format import Kind, PolicyFile
from tests.support.catalogs import NOW, Challenge, Item, Key, User, Video, World, days_before

Floats = npt.NDArray[np.float64]

FEATURES = 20  # of which two are 0 where there are too few interactions, as in all worlds that this is asked about
KIND_TYPE = {"VMP": "resume", "AU": "resume", "NU": "resume", "FW": "challenge", "FLOW": "challenge"}
CITY_SPELLINGS = {
    "bogota": "Bogotá",
    "bogotá d.c.": "Bogotá",
    "medellin": "Medellín",
    "distrito federal": "CDMX",
    "ciudad de méxico": "CDMX",
    "nuevo leon": "Monterrey",
    "nuevo león": "Monterrey",
}
TOKEN_POINTS = {"skills": 15, "knowledges": 12, "tools": 10, "languages": 8}
CUTS = {"skills": 5, "knowledges": 3, "tools": 3, "languages": 3}


def tokens(owner: Video | User, name: str) -> list[str]:
    """A list in its one spelling, without repetitions, cut to what counts."""
    entries = [" ".join(entry.split()).casefold() for entry in getattr(owner, name)]
    return list(dict.fromkeys(entry for entry in entries if entry))[: CUTS[name]]


def city_of(item: Item) -> str | None:
    city = item.city.strip()
    return CITY_SPELLINGS.get(city.casefold(), city) or None


@dataclass(frozen=True)
class Reader:
    """What is known of a user; ``tokens`` counts how often each stands in the history, or else the profile."""

    history: list[Key]
    tokens: dict[str, Counter[str]]
    cities: set[str]
    connections: set[int]
    closeness: float  # how much tokens count: 1, or of a profile its weight


class Oracle:
    def __init__(
        self,
        world: World,
        file: PolicyFile,
        theta: Floats | None = None,
        A: Floats | None = None,
        now: datetime = NOW,
    ) -> None:
        self.world = world
        self.file = file
        self.now = now
        self.videos: dict[Key, Video] = {video.key: video for video in world.videos}
        self.users = {user.id: user for user in world.users}
        self.known = {item.key for item in world.items}
        self.profile_weight = 1.0
        self._readers: dict[int, Reader] = {}
        self.theta = {kind: self._prior_mean() if theta is None else theta[i] for i, kind in enumerate(KINDS)}
        self.A_inv = {kind: np.linalg.inv(np.eye(FEATURES) if A is None else A[i]) for i, kind in enumerate(KINDS)}
        self.most_views = max((video.views for video in world.videos), default=0)
        self.most_matches = max((video.matches for video in world.videos), default=0)
        self.most_ratings = max((video.ratings for video in world.videos), default=0)
        self.most_saves = max((video.saves for video in world.videos), default=0)
        self.most_exhibitions = max((video.exhibitions for video in world.videos), default=0)
        for name in ("tokens_of", "age_days", "similarity", "match", "features", "hand_set_sum", "score"):
            setattr(self, name, functools.cache(getattr(self, name)))  # with each slot, kind and user it is asked again
        self.skill_uses = Counter(skill for video in world.videos for skill in self.tokens_of(video, "skills"))

    @staticmethod
    def _prior_mean() -> Floats:
        mean = np.zeros(FEATURES)
        mean[17] = 10.0
        return mean

    # The user.

    def reader(self, user_id: int) -> Reader:
        if user_id not in self._readers:
            history = self.history(user_id)
            engaged = [self.videos[key] for key in history if key in self.videos][:80]
            own, profile = self._history_tokens(engaged), self._profile_tokens(user_id)
            self._readers[user_id] = Reader(
                history=history,
                tokens=own if any(own.values()) else profile,
                cities={city for video in engaged if (city := city_of(video))},
                connections=self._connections(user_id),
                closeness=1.0 if any(own.values()) else self.profile_weight,
            )
        return self._readers[user_id]

    def history(self, user_id: int) -> list[Key]:
        """What the user interacted with and the catalog holds, latest first, each once."""
        user = self.users.get(user_id)
        latest: dict[Key, datetime] = {}
        for interaction in user.history if user else ():
            moment = days_before(interaction.days_ago, self.now)
            if interaction.key in self.known:
                latest[interaction.key] = max(moment, latest.get(interaction.key, moment))
        return sorted(latest, key=lambda key: latest[key], reverse=True)

    def _history_tokens(self, engaged: Sequence[Video]) -> dict[str, Counter[str]]:
        return {name: Counter(t for video in engaged for t in self.tokens_of(video, name)) for name in CUTS}

    def _profile_tokens(self, user_id: int) -> dict[str, Counter[str]]:
        user = self.users.get(user_id)
        if user is None or not user.recent or self.profile_weight == 0.0:
            return {name: Counter() for name in CUTS}
        return {name: Counter(tokens(user, name)) for name in CUTS}

    def _connections(self, user_id: int) -> set[int]:
        pairs = self.world.connections
        found = {b for a, b in pairs if a == user_id} | {a for a, b in pairs if b == user_id}
        return found - {user_id}

    # The item.

    def tokens_of(self, video: Video, name: str) -> list[str]:
        return tokens(video, name)

    def age_days(self, item: Item) -> float:
        return (self.now - days_before(item.age_days, self.now)).total_seconds() / 86400

    def passes_gate(self, video: Video) -> bool:
        return (
            video.average >= 3
            or video.views >= 20
            or video.matches >= 2
            or video.ratings >= 2
            or self.age_days(video) < 14
        )

    def quality(self, video: Video) -> float:
        n = video.ratings
        return 0.7 * video.average * n / (n + 10) + 0.3 * math.log1p(video.matches)

    def popularity(self, video: Video) -> float:
        return 0.40 * math.log1p(video.views) + 0.35 * video.average + 0.25 * math.log1p(video.matches)

    def engagement(self, video: Video) -> float:
        views = math.log1p(video.views) / math.log1p(self.most_views) if self.most_views else 0.0
        matches = math.log1p(video.matches) / math.log1p(self.most_matches) if self.most_matches else 0.0
        return 0.35 * views + 0.40 * video.average / 5 + 0.25 * matches

    def attribute_count(self, video: Video) -> float:
        return sum(len(self.tokens_of(video, name)) for name in ("skills", "knowledges", "tools")) / 15

    def rarity(self, video: Video) -> float:
        skills = self.tokens_of(video, "skills")
        return sum(1 / (self.skill_uses[skill] + 1) for skill in skills) / len(skills) if skills else 0.0

    # User and item.

    def similarity(self, video: Video, user_id: int) -> float:
        user = self.reader(user_id).tokens
        if not any(user.values()):
            return 0.5
        skills = self.tokens_of(video, "skills")
        if not skills:
            return 0.3
        counts = user["skills"]
        total = sum(counts.values())
        if total == 0:
            return 0.0
        shared = sum(counts[skill] for skill in skills)
        length = math.sqrt(sum(count * count for count in counts.values()))
        similar = 0.6 * shared / (length * math.sqrt(len(skills))) + 0.4 * shared / total
        return self.reader(user_id).closeness * similar

    def match(self, video: Video, user_id: int) -> float:
        user = self.reader(user_id).tokens
        points = sum(
            TOKEN_POINTS[name] * sum(token in user[name] for token in self.tokens_of(video, name)) for name in CUTS
        )
        return self.reader(user_id).closeness * min(100, points) / 100

    def same_city(self, video: Video, user_id: int) -> float:
        return float(city_of(video) in self.reader(user_id).cities)

    def in_network(self, item: Item, user_id: int) -> float:
        return float(item.creator in self.reader(user_id).connections)

    def features(self, item: Item, user_id: int, kind: str) -> Floats:
        x = np.zeros(FEATURES)
        age = self.age_days(item)
        x[1] = math.exp(-age / 28) * (1.5 if age <= 30 else 1)
        x[8] = self.in_network(item, user_id)
        x[13] = math.log1p(len(self.reader(user_id).connections)) / 10
        x[17] = self.hand_set_sum(item, user_id, kind) / 10
        if isinstance(item, Challenge):
            return x
        x[0] = self.engagement(item)
        x[2] = self.quality(item)
        x[3] = self.popularity(item)
        x[4] = self.attribute_count(item)
        x[5] = self.similarity(item, user_id)
        x[6] = self.match(item, user_id)
        x[7] = self.same_city(item, user_id)
        x[9] = math.log1p(item.views) / 10
        x[10] = item.average / 5
        x[11] = self.rarity(item)
        x[12] = float(self.passes_gate(item))
        x[14] = item.ratings / (self.most_ratings + 1)
        x[15] = item.saves / (self.most_saves + 1)
        x[16] = item.exhibitions / (self.most_exhibitions + 1)
        return x

    def hand_set_sum(self, item: Item, user_id: int, kind: str) -> float:
        """The kind's weighted sum without its uniform terms, for an item of the kind's type."""
        age = self.age_days(item)
        recency = math.exp(-age / 28)
        fresh = float(age <= 45)
        if isinstance(item, Challenge):
            if kind == "FW":
                return 60 - age
            assert kind == "FLOW", f"{kind} holds no challenges"
            return 30 * max(0, 90 - age) / 90 + 30 * self.in_network(item, user_id)
        if kind == "VMP":
            return 2.2 * self.engagement(item) + 1.6 * self.popularity(item) + 1.8 * self.quality(item) + 1.4 * fresh
        if kind == "AU":
            return (
                3.5 * self.similarity(item, user_id)
                + 3.0 * self.match(item, user_id)
                + 1.1 * self.popularity(item)
                + 1.4 * self.quality(item)
                + 0.9 * recency
                + 0.9 * self.rarity(item)
                + 0.9 * fresh
            )
        assert kind == "NU", f"{kind} holds no videos"
        return (
            2.5 * recency + 1.8 * self.attribute_count(item) + 1.4 * self.rarity(item) + 0.8 * (1.5 if age <= 30 else 1)
        )

    def score(self, item: Item, user_id: int, kind: str) -> float:
        """LinUCB: θᵀx + α√(xᵀA⁻¹x)."""
        x = self.features(item, user_id, kind)
        width = math.sqrt(x @ self.A_inv[kind] @ x)
        return float(self.theta[kind] @ x) + self._kind(kind).alpha * width

    # The pools.

    def may_hold(self, kind: str, item: Item) -> bool:
        if item.key[0] != KIND_TYPE[kind]:
            return False
        if kind == "VMP":
            return isinstance(item, Video) and self.passes_gate(item)
        if kind == "NU":
            return self.age_days(item) <= 45
        return True

    def pool(self, kind: str, user_id: int, excluded: Collection[int] = ()) -> list[Item]:
        """The best n by hand-set sum among what is neither excluded nor seen."""
        seen = set(self.reader(user_id).history)
        allowed = [
            item
            for item in self.world.items
            if self.may_hold(kind, item) and item.id not in excluded and item.key not in seen
        ]
        allowed.sort(key=lambda item: self.hand_set_sum(item, user_id, kind), reverse=True)
        return allowed[: self._kind(kind).pool]

    def softmax(self, kind: str, user_id: int, items: Sequence[Item]) -> list[float]:
        """Probability of each of ``items``, at the kind's temperature, over the floor."""
        temperature = self._kind(kind).temperature
        scores = [self.score(item, user_id, kind) for item in items]
        best = max(scores)
        weights = [math.exp((score - best) / temperature) for score in scores]
        floor = self.file.exploration.floor
        return [(1 - floor) * weight / sum(weights) + floor / len(weights) for weight in weights]

    def _kind(self, name: str) -> Kind:
        return self.file.kinds[name]
