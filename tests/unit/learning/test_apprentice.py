"""How far a shadow would make the feeds that are served, from a real log to what a person is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recommendation_service.learning.apprentice import agreement, in_words
from recommendation_service.learning.status import MOST_AGREEMENTS, Totals
from recommendation_service.log.records import FeedRecord, ShadowRecord
from recommendation_service.policies.evidence import BETTER, OPEN, REFUSED, WORSE, Look
from recommendation_service.ranking.packed_slots import pack_as_they_are, unpack_draws
from tests.support.events import feed
from tests.unit.learning.test_learner import World


def beside(served: list[float], shadow: list[float], pools: list[int], **fields: object) -> FeedRecord:
    slots = feed(len(served)).slots()
    slots = slots._replace(propensities=np.array(served, np.float32), pools=np.array(pools, np.uint8))
    shadows = (ShadowRecord("learned", np.array(shadow, "<f4").tobytes()),)
    return feed(len(served), **{"packed": pack_as_they_are(slots), "shadows": shadows, **fields})


def alike_by(record: FeedRecord) -> list[tuple[str, int, float]]:
    return agreement(record, unpack_draws(record.packed))


def test_it_is_the_share_of_draws_that_both_would_make_alike() -> None:
    draw = np.random.default_rng(3)
    served, shadow = draw.dirichlet(np.ones(12)), draw.dirichlet(np.ones(12))
    chosen = draw.choice(12, 10_000, p=served)
    alike = 0.0
    for start in range(0, len(chosen), 100):
        some = chosen[start : start + 100]
        [(version, draws, of)] = alike_by(beside(served[some].tolist(), shadow[some].tolist(), [1] * 100))
        assert (version, draws) == ("learned", 100)
        alike += of
    assert alike / len(chosen) == pytest.approx(np.minimum(served, shadow).sum(), abs=0.02)


def test_what_all_policies_draw_alike_and_what_the_shadow_itself_made_says_nothing() -> None:
    record = beside([0.5, 0.2, 1.0], [0.1, 0.2, 1.0], [1, 100, 101])
    assert alike_by(record) == [("learned", 1, pytest.approx(0.2))]
    assert alike_by(beside([0.5], [0.5], [1], policy_version="learned")) == []
    assert alike_by(feed(3)) == []
    assert alike_by(beside([0.5, 0.5], [0.5], [1, 1])) == [], "cut"


def test_the_learner_adds_it_up_and_says_it_in_words(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write([beside([0.5, 0.4], [0.25, 0.8], [1, 1]) for _ in range(3)])
    learner = world.learn()
    assert learner.totals.agreement == {"learned": (6, pytest.approx(4.5))}
    assert world.learn().totals.agreement["learned"][0] == 6, "each once"
    told = in_words("learned", 6, 4.5, [])
    assert told == "learned agrees in part: of 6 draws 75 % would be the same. Whether it would win was not weighed yet"
    assert "agrees with what serves" in in_words("learned", 100, 97.0, [])
    assert "goes its own way" in in_words("learned", 100, 30.0, [])


@pytest.mark.parametrize(
    ("verdict", "said"), [(BETTER, "would win,"), (WORSE, "would lose,"), (OPEN, "cannot be told"), (REFUSED, "never")]
)
def test_whether_it_would_win_is_the_gates_last_word(verdict: str, said: str) -> None:
    figures = {"confidence": 0.99, "logged": 0.2, "difference": 0.1, "lower": 0.0, "upper": 0.2}
    looks = [
        Look(
            "2026-11-29",
            "the gate",
            "served",
            one,
            "So it is.",
            5_000,
            900,
            **figures,
            effective_sample_size=1.0,
            largest_weight=1.0,
        )
        for one in (OPEN, verdict)
    ]
    told = in_words("learned", 6, 4.5, looks)
    assert said in told
    assert told.endswith(" of 5,000 feeds. So it is.")


def test_of_many_shadows_the_latest_are_kept() -> None:
    totals = Totals()
    for number in range(MOST_AGREEMENTS + 3):
        totals.agree("first", 1, 1.0)
        totals.agree(f"version-{number}", 2, 1.0)
    assert len(totals.agreement) == MOST_AGREEMENTS
    assert totals.agreement["first"] == (MOST_AGREEMENTS + 3, MOST_AGREEMENTS + 3.0)
