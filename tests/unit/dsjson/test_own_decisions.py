"""This service's decisions as dsjson: Vowpal Wabbit and the reader here find in them what was recorded."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from recommendation_service.catalog.dictionary import Dictionary
from recommendation_service.dsjson.decision import Decision, Form
from recommendation_service.dsjson.own import own_decision
from recommendation_service.dsjson.policies import policy_named
from recommendation_service.dsjson.reading import decision_of
from recommendation_service.dsjson.weighing import Weighing
from recommendation_service.dsjson.writing import line_of
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.model.kinds import ENDPOINTS
from recommendation_service.policies.policy import load_policy
from recommendation_service.ranking.decisions import Decision as Recorded
from recommendation_service.ranking.decisions import recorded_draws, unpack_decision
from tests.support.catalogs import make_catalog
from tests.support.decision_logs import loss_by_vowpal_wabbit, write_log
from tests.support.slates import request_for
from tests.support.worlds import FIRST_USER, random_world

HAPPENED_MS = 1_790_000_000_123


def _recorded(videos: int, challenges: int, count: int) -> list[Recorded]:
    """A few hundred items, or so few that pools run out and explorations fill slots."""
    policy = load_policy()
    catalog = make_catalog(random_world(5, videos=videos, challenges=challenges, users=8), policy)
    pipeline = FeedPipeline(Generation(catalog, policy), seed=11)
    feeds = [request_for(FIRST_USER + n % 8, ENDPOINTS[n % 3], (24, 12, 6)[n % 3], f"{n:032x}") for n in range(count)]
    return [unpack_decision(pipeline.rank(feed, wants_decision=lambda *_: True).decision) for feed in feeds]


@pytest.fixture(scope="module")
def recorded() -> list[Recorded]:
    return [*_recorded(300, 40, 9), *_recorded(20, 5, 6)]


def _written(recorded: list[Recorded]) -> tuple[list[Decision], list[bytes]]:
    rng, ids = np.random.default_rng(3), Dictionary()
    decisions = [
        own_decision(f"{number:032x}", HAPPENED_MS, "total", each, rewards, ids.words, ids.item)
        for number, each in enumerate(recorded)
        for rewards in (rng.random(len(each.slots)).round(3).tolist(),)
    ]
    return decisions, [line_of(decision) for decision in decisions]


def test_slots_are_those_that_were_recorded(recorded: list[Recorded]) -> None:
    decisions, lines = _written(recorded)
    for each, decision, line in zip(recorded, decisions, lines, strict=True):
        again = decision_of(line)
        assert (again.form, again.event_id, again.rewards) == (Form.CCB, decision.event_id, decision.rewards)
        assert again.timestamp is not None
        assert math.isclose(again.timestamp.timestamp() * 1000, HAPPENED_MS)
        for slot, read, draws in zip(each.slots, again.slots, recorded_draws(each), strict=True):
            if slot.chosen < 0:
                assert (read.propensity, len(read.free)) == (1.0, 1)
                continue
            assert read.propensity == slot.propensity
            assert len(read.free) == int(slot.eligible.sum())
            assert sum(read.propensities) == pytest.approx(1.0, abs=1e-6)
            assert read.propensities[0] == pytest.approx(float(draws[slot.chosen]), abs=1e-6)


def test_there_are_slots_that_no_score_filled(recorded: list[Recorded]) -> None:
    assert any(slot.chosen < 0 for each in recorded for slot in each.slots)


def test_an_action_has_its_name_its_features_and_the_score_of_each_kind(recorded: list[Recorded]) -> None:
    _, lines = _written(recorded)
    event = json.loads(lines[0])
    action = event["c"]["_multi"][0]
    assert set(action) == {"_tag", "item", "is", "hand_set"}
    assert action["_tag"].split(":")[0] == action["item"]["type"]
    assert all(isinstance(value, float) and value for value in action["is"].values())
    assert event["c"]["_slots"][0]["slot"]["kind"] == "VMP"
    assert b"null" not in lines[0]


def test_vowpal_wabbit_reads_in_them_what_is_read_here(recorded: list[Recorded], tmp_path: Path) -> None:
    _, lines = _written(recorded)
    weighing = Weighing([policy_named("even")])
    for line in lines:
        weighing.add(decision_of(line))
    (even,) = weighing.values()
    path = write_log(tmp_path / "own.dsjson", lines)
    own, weight = loss_by_vowpal_wabbit(path, "--ccb_explore_adf --epsilon 1.0 --all_slots_loss")
    first, _ = loss_by_vowpal_wabbit(path, "--ccb_explore_adf --epsilon 1.0")
    assert weight == len(lines)
    assert even.own_ratio == pytest.approx(-own, rel=1e-4)
    assert even.slots[0].ips == pytest.approx(-first, rel=1e-4)
