"""From a real log to policy versions: rewards, sums, marks, and what becomes of what is damaged."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recommendation_service.core.config import Settings
from recommendation_service.learning.format import LearningFile, load_learning
from recommendation_service.learning.learner import Learner
from recommendation_service.log.records import FeedRecord, Record
from recommendation_service.model.features import FEATURE_NAMES
from recommendation_service.model.kinds import KINDS
from recommendation_service.policies.store import BY_LEARNER, PolicyStore
from tests.support.events import HAPPENED_MS, feed, feedback, write_segment

FILE = load_learning()
SETTLED_MS = HAPPENED_MS + FILE.settle_ms + 1
AU = KINDS.index("AU")


class World:
    """A folder with a log, and a learner whose clock the test moves."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.settings = Settings(data_dir=folder, learner="store", **settings)
        self.now_ms = SETTLED_MS
        self.file: LearningFile = FILE

    def write(self, records: Iterable[Record | bytes], **options: Any) -> Path:
        return write_segment(self.settings.events_dir, records, **options)

    def learner(self) -> Learner:
        return Learner(self.settings, self.file, lambda: self.now_ms / 1000)

    def learn(self) -> Learner:
        """With a learner that has read and settled all, and is closed."""
        learner = self.learner()
        while learner.step():
            pass
        learner.close()
        return learner


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def shown(record: FeedRecord, place: int, event: str = "impression", **fields: Any) -> Record:
    """Feedback to one item of a feed."""
    item = int(record.slots().items[place])
    given = {"item_type": item & 1, "item_id": item >> 1, "request_id": record.request_id.hex(), "event": event}
    return feedback(**{"happened_ms": HAPPENED_MS + 5_000, "received_ms": HAPPENED_MS + 6_000, **given, **fields})


def sums_of(learner: Learner) -> np.ndarray[Any, Any]:
    return learner.ledger.sums.at(HAPPENED_MS / 1000)


def count(learner: Learner, kind: int) -> float:
    return float(sums_of(learner)[kind, len(FEATURE_NAMES), len(FEATURE_NAMES)])


def reward(learner: Learner, kind: int) -> float:
    return float(sums_of(learner)[kind, len(FEATURE_NAMES), len(FEATURE_NAMES) + 1])


def test_only_what_was_seen_teaches_and_a_match_is_worth_one(world: World) -> None:
    served = feed(6)
    world.write([served, shown(served, 0), shown(served, 1), shown(served, 1, "match")])

    learner = world.learn()

    assert count(learner, AU) == pytest.approx(2)
    assert reward(learner, AU) == pytest.approx(1)
    assert learner.totals.slots == {"AU": 2}
    assert learner.totals.events == {"impression": {"request": 2}, "match": {"request": 1}}


def test_a_version_is_published_that_nobody_serves(world: World) -> None:
    served = feed(6)
    world.write([served, shown(served, 0), shown(served, 1, "match")])
    learner = world.learner()

    learner.learn_all()

    store = PolicyStore(world.settings.policy_dir, 10)
    [version] = store.versions()
    assert store.current() is None
    assert store.manifest(version)["by"] == BY_LEARNER
    assert "learned from 2 shown items: AU" in store.manifest(version)["why"]
    assert not learner.publish(), "nothing was learned since"
    learner.close()
