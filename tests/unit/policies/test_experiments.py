"""Experiments of the policy store: what begins one, what does not, what it keeps from changing, and how it ends."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from recommendation_service.core.config import Settings
from recommendation_service.core.errors import PolicyError
from recommendation_service.policies.choice import PolicyChoice
from recommendation_service.policies.experiment import Arm, Experiment
from recommendation_service.policies.experiments import start_experiment, stop_experiment
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.policy import read_policy_file
from recommendation_service.policies.store import POLICY, PolicyStore

START = datetime(2026, 11, 29, 10, tzinfo=UTC)
SHIPPED = read_policy_file()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, database_url="sqlite://")  # type: ignore[arg-type]


@pytest.fixture
def store(settings: Settings) -> PolicyStore:
    return PolicyStore(settings.policy_dir, keep=3)


def deed(number: int = 0, who: str = "ana@desk", why: str = "to see") -> Deed:
    return Deed(START + timedelta(minutes=number), who, why)


def publish(store: PolicyStore, number: int, *, aside: bool = True, **changes: float) -> str:
    content = re.sub(rb"^alpha = .*", f"alpha = {1 + number / 100}".encode(), SHIPPED, flags=re.M)
    for name, value in changes.items():
        content = re.sub(rf"^{name} = .*".encode(), f"{name} = {value}".encode(), content, flags=re.M)
    return store.publish(content, None, deed(number), aside=aside)


def start(store: PolicyStore, *arms: Arm, name: str = "bolder", number: int = 10, **options: Any) -> Experiment:
    given = {"salt": None, "expect": None, "until_now": SHIPPED} | options
    return start_experiment(store, name, arms, deed(number), **given)


def two(version: str, share: float = 0.5) -> tuple[Arm, Arm]:
    return Arm("control", "current", 1 - share), Arm("bold", version, share)


def test_an_experiment_is_what_began_it_and_is_there_after_a_new_start(store: PolicyStore) -> None:
    current, other = publish(store, 1, aside=False), publish(store, 2)
    begun = start(store, *two(other, 0.25))
    assert [(arm.name, arm.version, arm.share) for arm in begun.arms] == [
        ("control", current, 0.75),
        ("bold", other, 0.25),
    ]
    assert begun.labels == ["bolder:control", "bolder:bold"]
    assert (begun.salt, begun.who, begun.why) == ("bolder", "ana@desk", "to see")
    assert PolicyStore(store.folder, 3).experiment() == begun
    assert store.served().experiment == begun
    last = store.journal.entries()[-1]
    assert (last.did, last.version, last.why) == ("experiment", f"{current} {other}", "bolder: to see")


def test_where_nothing_was_published_yet_what_ships_becomes_the_version_that_is_compared(store: PolicyStore) -> None:
    other = publish(store, 2)
    begun = start(store, *two(other))
    assert store.current() == begun.arms[0].version
    assert (store.folder / begun.arms[0].version / POLICY).read_bytes() == SHIPPED


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ([Arm("a", "current", 0.5), Arm("b", "current", 0.4)], ["add up to 0.9"]),
        ([Arm("a", "current", 1.0)], ["2 to 8 arms, and 1", "share of a is 1"]),
        ([Arm("a", "current", 0.5), Arm("a", "current", 0.5)], ["arm a was given 2 times"]),
        ([Arm("a b", "current", 0.0), Arm("b", "current", 1.2)], ["'a b'", "share of a b is 0", "share of b is 1.2"]),
        ([Arm(str(n), "current", 0.1) for n in range(10)], ["2 to 8 arms, and 10"]),
        ([Arm("a", "current", 0.5), Arm("b", "20200101T000000.000000Z-5d41402abc4b2a76", 0.5)], ["b: ", "20200101T0"]),
        ([Arm("a", "current", float("nan")), Arm("b", "current", 0.5)], ["share of a is nan"]),
    ],
)
def test_what_is_no_experiment_is_refused_with_every_problem(
    store: PolicyStore, arms: list[Arm], said: list[str]
) -> None:
    publish(store, 1, aside=False)
    with pytest.raises(PolicyError) as caught:
        start(store, *arms)
    assert [words for words in said if words not in str(caught.value)] == []
    assert store.experiment() is None
    assert [entry.did for entry in store.journal.entries()] == ["publish"]


def test_an_arm_that_needs_another_catalog_is_refused(store: PolicyStore) -> None:
    publish(store, 1, aside=False)
    other = publish(store, 2, fresh_days=3.0)
    with pytest.raises(PolicyError, match=f"bold: version {other} needs another catalog"):
        start(store, *two(other))


def test_arms_are_not_changed_half_way_and_the_second_of_two_people_is_told(store: PolicyStore) -> None:
    current, other, third = publish(store, 1, aside=False), publish(store, 2), publish(store, 3)
    begun = start(store, *two(other))
    changes = {
        "start": lambda: start(store, *two(third), name="another"),
        "promote": lambda: store.promote(third, deed(11)),
        "rollback": lambda: store.rollback(deed(11)),
    }
    for what, change in changes.items():
        with pytest.raises(PolicyError, match=r"experiment bolder of ana@desk runs since 2026-11-29T10:10"):
            change()
        assert (store.experiment(), store.current()) == (begun, current), what
    assert publish(store, 4, aside=False) != store.current(), "what is published is only kept"
    with pytest.raises(PolicyError, match=f"is {current}, not {other}"):
        start(store, *two(third), expect=other)
    with pytest.raises(PolicyError, match="the one that runs is bolder"):
        stop_experiment(store, "another", deed(12))


def test_it_ends_as_it_is_stopped_and_its_name_is_not_given_again(store: PolicyStore) -> None:
    current, other = publish(store, 1, aside=False), publish(store, 2)
    begun = start(store, *two(other))
    assert stop_experiment(store, "bolder", deed(20, "ben", "no difference")) == begun
    assert (store.experiment(), store.current()) == (None, current)
    [over] = store.ended_experiments()
    assert (over.experiment, over.who, over.why) == (begun, "ben", "no difference")
    with pytest.raises(PolicyError, match="no experiment runs"):
        stop_experiment(store, None, deed(21))
    with pytest.raises(PolicyError, match="There was an experiment bolder"):
        start(store, *two(other), number=22)
    assert start(store, *two(other), name="bolder-2", salt="bolder", number=23).salt == "bolder"


@pytest.mark.parametrize("way", ["promote", "pin"])
def test_it_ends_as_an_arm_is_promoted_or_any_version_is_pinned(store: PolicyStore, way: str) -> None:
    publish(store, 1, aside=False)
    other, third = publish(store, 2), publish(store, 3)
    start(store, *two(other))
    served = other if way == "promote" else third
    getattr(store, way)(served, deed(20, why="it won"))
    assert (store.experiment(), store.current()) == (None, served)
    assert [over.why for over in store.ended_experiments()] == ["it won"]
    assert [entry.did for entry in store.journal.entries()][-2:] == [way, "experiment-end"]


def test_while_a_version_is_pinned_none_begins(store: PolicyStore) -> None:
    current, other = publish(store, 1, aside=False), publish(store, 2)
    store.pin(current, deed(5))
    with pytest.raises(PolicyError, match="was pinned"):
        start(store, *two(other))


def test_versions_of_the_arms_are_kept_however_many_are_published(store: PolicyStore) -> None:
    publish(store, 1, aside=False)
    other = publish(store, 2)
    begun = start(store, *two(other))
    for number in range(11, 20):
        publish(store, number)
    assert set(begun.versions) <= set(store.versions())


def test_whoever_serves_takes_up_all_arms_or_none_and_says_why(store: PolicyStore, settings: Settings) -> None:
    current, other = publish(store, 1, aside=False), publish(store, 2)
    refused: list[int] = []
    choice = PolicyChoice(settings, lambda: refused.append(1)).take_up()
    assert (choice.experiment, choice.arms) == (None, ())
    begun = start(store, *two(other))
    assert choice.is_changed()
    choice.take_up()
    assert choice.experiment == begun
    assert [arm.version for arm in choice.arms] == [current, other]
    assert choice.arms[0] is choice.policy
    assert not choice.is_changed()

    (store.folder / other / POLICY).write_text("damaged")
    damaged = PolicyChoice(settings, lambda: refused.append(1)).take_up()
    assert (damaged.policy.version, damaged.experiment, damaged.arms) == (current, None, ())
    assert "Experiment bolder is not served" in damaged.problems[0]
    assert refused


@pytest.mark.parametrize("content", ["", "{}", '{"name": 3', "[]", '{"name": "a", "arms": []}'])
def test_a_file_that_says_nothing_is_no_experiment(store: PolicyStore, content: str) -> None:
    publish(store, 1, aside=False)
    (store.folder / "EXPERIMENT").write_text(content)
    assert store.experiment() is None


def test_a_line_that_was_cut_hides_no_experiment_that_is_over(store: PolicyStore) -> None:
    publish(store, 1, aside=False)
    other = publish(store, 2)
    for number, name in enumerate(("one", "two")):
        start(store, *two(other), name=name, number=10 + number)
        stop_experiment(store, None, deed(20 + number))
        with (store.folder / "experiments.jsonl").open("a") as file:
            file.write(json.dumps({"experiment": 3})[:9])
    assert [over.experiment.name for over in store.ended_experiments()] == ["one", "two"]


def test_a_file_that_names_no_experiment_is_told_of_until_another_is_in_its_place(
    settings: Settings, store: PolicyStore
) -> None:
    current, other = publish(store, 1, aside=False), publish(store, 2)
    start(store, *two(other))
    refused: list[int] = []
    choice = PolicyChoice(settings, lambda: refused.append(1)).take_up()
    assert (choice.experiment is not None, choice.problems) == (True, [])

    for number, content in enumerate((b"", b"[]", b'{"name": "bolder"}', b"\xff\xfe"), 1):
        (store.folder / "EXPERIMENT").write_bytes(content)
        assert choice.is_changed(), content
        choice.take_up()
        assert choice.experiment is None
        assert choice.policy.version == current
        [problem] = choice.problems
        assert "EXPERIMENT cannot be read" in problem
        assert len(refused) == number
        with pytest.raises(PolicyError, match="EXPERIMENT cannot be read"):
            stop_experiment(store, None, deed(20))

    start(store, *two(other), name="again", number=30)
    assert choice.is_changed()
    assert (choice.take_up().experiment is not None, choice.problems) == (True, [])
