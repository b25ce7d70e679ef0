"""Decisions as lines of dsjson: Vowpal Wabbit reads of them what was meant, and so does this service."""

import json
from pathlib import Path
from typing import Any

import pytest

from recommendation_service.dsjson.policies import policy_named
from recommendation_service.dsjson.reading import decision_of
from recommendation_service.dsjson.weighing import Weighing
from recommendation_service.dsjson.writing import line_of
from tests.support.decision_logs import (
    as_lines,
    drawn_log,
    loss_by_vowpal_wabbit,
    single_slot_log,
    slates_log,
    two_slot_log,
    write_log,
)

SINGLE = (
    "_label_cost _label_probability _label_Action _labelIndex Timestamp Version EventId a c p pdrop",
    "--cb_explore_adf",
)
CCB = ("Timestamp Version EventId c _outcomes", "--ccb_explore_adf --all_slots_loss")
SLATES = ("_label_cost Timestamp Version EventId c _outcomes", "--slates")


@pytest.mark.parametrize(
    ("log", "keys", "arguments"),
    [
        ([*single_slot_log(), *drawn_log(50)], *SINGLE),
        (two_slot_log(), *CCB),
        (slates_log(), *SLATES),
    ],
    ids=["single", "ccb", "slates"],
)
def test_what_is_written_is_read_alike_by_vowpal_wabbit_and_here(
    tmp_path: Path, log: list[dict[str, Any]], keys: str, arguments: str
) -> None:
    decisions = [decision_of(line) for line in as_lines(log)]
    written = [line_of(decision) for decision in decisions]
    for line in written:
        assert [*json.loads(line)] == [key for key in keys.split() if key in json.loads(line)]
        assert b" " not in line
    again = [decision_of(line) for line in written]
    for before, after in zip(decisions, again, strict=True):
        same = ("form", "event_id", "timestamp", "slots", "rewards", "dropped")
        assert all(getattr(before, name) == getattr(after, name) for name in same)
    weighing = Weighing([policy_named("even")])
    for decision in again:
        weighing.add(decision)
    loss, _ = loss_by_vowpal_wabbit(write_log(tmp_path / "log", written), f"{arguments} --epsilon 1.0")
    assert weighing.values()[0].own_ratio == pytest.approx(-loss, rel=1e-5)


def test_features_are_floats_without_nulls_and_without_what_ends_the_reading_of_slates(tmp_path: Path) -> None:
    event = slates_log()[0]
    event["c"]["user"] = {"a": -3, "b": None, "c": True, "d": False, "e": [1, 2], "f": ["x"], "g": 1e300, "h": "w w"}
    event["c"]["_secret"] = {"x": 1}
    written = line_of(decision_of(as_lines([event])[0]))
    assert json.loads(written)["c"]["user"] == {"a": -3.0, "c": 1.0, "e": [1.0, 2.0], "h": "w w"}
    assert b'"a":-3.0' in written
    assert "_secret" not in json.loads(written)["c"]
    lines = [written, *as_lines(slates_log())]
    _, weight = loss_by_vowpal_wabbit(write_log(tmp_path / "log", lines), "--slates --epsilon 1.0")
    assert weight == 2


def test_the_probability_that_is_written_is_free_of_dropping() -> None:
    event = single_slot_log()[0] | {"_label_probability": 0.25, "pdrop": 0.5}
    written = json.loads(line_of(decision_of(as_lines([event])[0])))
    assert (written["_label_probability"], written["p"][0], written["pdrop"]) == (0.5, 0.5, 0.5)
