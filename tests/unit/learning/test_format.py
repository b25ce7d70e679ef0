"""The learning file: what each event is worth, and every problem of a wrong one at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from recommendation_service.bootstrap import create_app
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import ConfigurationError
from recommendation_service.learning.format import SHIPPED, load_learning
from recommendation_service.model.words import EVENT_NAMES

FILE = load_learning()


def problems_of(tmp_path: Path, content: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(ConfigurationError) as raised:
        load_learning(path)
    assert all(str(path) in problem for problem in raised.value.problems)
    return "\n".join(raised.value.problems)


def test_the_file_that_ships_lists_every_event_that_feedback_may_be() -> None:
    assert set(FILE.events) == set(EVENT_NAMES)
    assert [name for name, event in FILE.events.items() if event.shows] == ["impression"]


@pytest.mark.parametrize(
    ("event", "value", "watched", "reward"),
    [
        ("view", None, 15.0, 0.15),
        ("view", None, 300.0, 0.3),
        ("view", None, None, 0.15),
        ("rating", 5.0, None, 0.6),
        ("rating", 1.0, None, -0.6),
        ("rating", 3.0, None, 0.0),
        ("rating", 1_000.0, None, 0.6),
        ("match", None, None, 1.0),
        ("hide", None, None, -1.0),
    ],
)
def test_an_event_is_worth_what_its_row_says(
    event: str, value: float | None, watched: float | None, reward: float
) -> None:
    assert FILE.rules[event].amount(value, watched) == pytest.approx(reward)


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    wrong = (
        SHIPPED.read_text()
        .replace("half_life_days = 14.0", "half_life_days = 0")
        .replace("[events.like]", "[events.wink]")
    )
    told = problems_of(tmp_path, wrong)
    assert "half_life_days" in told
    assert "wink" in told


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("VMP = 12.0", "VPM = 12.0", "points.VPM: there is no such kind"),
        ("VMP = 12.0\n", "", "points.VMP: is missing"),
        ("default = 0.0", "default = -2.0", "default"),
        ("least = -1.0", "least = 1.0", "least must be less than most"),
        ("full = 5.0", "full = 2.0", "full must be there and more than neutral"),
        ("24.0\nshows = true", "24.0\nshows = true\nby = 'value'\nfull = 1.0", "that only shows an item"),
        ("reward = 1.0", "reward = 7.0", "events.match.reward"),
        ("noise = 0.7", "noise = nan", "noise"),
        ("variety = 0.9", "variety = 1.2", "variety"),
        ("precision_factor = 100.0", "precision_factor = 0.5", "precision_factor"),
        ("version", "versión", "is not TOML"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, before: str, after: str, said: str) -> None:
    content = SHIPPED.read_text()
    assert before in content
    assert said in problems_of(tmp_path, content.replace(before, after, 1))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load_learning(tmp_path / "missing.toml")


def test_a_service_with_a_wrong_learning_file_does_not_start(tmp_path: Path) -> None:
    file = tmp_path / "learning.toml"
    file.write_text("version = 'mine'")
    with pytest.raises(ConfigurationError, match="half_life_days"):
        create_app(Settings(data_dir=tmp_path, learner="store", learning_file=file))
    create_app(Settings(data_dir=tmp_path, learning_file=file))  # nobody learns
