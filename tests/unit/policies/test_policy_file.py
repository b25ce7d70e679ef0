"""A policy file is validated whole: one message names everything that is wrong with it."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from recommendation_service.core.errors import ConfigurationError
from recommendation_service.policies.policy import load_policy
from tests.support.policies import SHIPPED, shipped_content


def toml(content: dict[str, Any], section: str = "") -> str:
    """TOML of tables, numbers, texts and lists; JSON has the same spelling for the last three."""
    plain = {name: value for name, value in content.items() if not isinstance(value, dict)}
    lines = [f"[{section}]"] if section else []
    lines += [f"{name} = {value if isinstance(value, float) else json.dumps(value)}" for name, value in plain.items()]
    for name, value in content.items():
        if isinstance(value, dict):
            lines.append(toml(value, f"{section}.{name}" if section else name))
    return "\n".join(lines)


def problems_of(folder: Path, changes: dict[str, Any]) -> list[str]:
    """What is wrong with the shipped policy after ``changes``, by path; None takes a value out."""
    content = deepcopy(shipped_content())
    for path, value in changes.items():
        *sections, name = path.split(".")
        place = content
        for section in sections:
            place = place[section]
        if value is None:
            del place[name]
        else:
            place[name] = value
    file = folder / "policy.toml"
    file.write_text(toml(content), "utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_policy(file)
    assert all(str(file) in problem for problem in caught.value.problems)
    return caught.value.problems


def assert_each_is_named(problems: list[str], *names: str) -> None:
    for name in names:
        assert any(name in problem for problem in problems), f"{name} is not named in {problems}"


def test_the_shipped_policy_can_be_written_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(toml(shipped_content()), "utf-8")
    assert load_policy(file).file == load_policy().file == load_policy(SHIPPED).file


def test_wrong_missing_and_unknown_values_are_all_named_at_once(tmp_path: Path) -> None:
    problems = problems_of(
        tmp_path,
        {
            "features.recency_days": 0.0,
            "limits.creator_window": "twelve",
            "exploration.size": None,
            "kinds.AU.temperature": -1.0,
            "kinds.VMP.weights": {"engagment": 2.2},
            "kinds.NU.colour": "red",
            "feeds.total": ["VMP", "XX"],
        },
    )
    assert len(problems) == 7
    assert_each_is_named(
        problems,
        "features.recency_days",
        "limits.creator_window",
        "exploration.size",
        "kinds.AU.temperature",
        "kinds.VMP",
        "kinds.NU.colour",
        "feeds.total: names XX",
    )


def test_both_patterns_are_named_where_both_hold_kinds_of_the_other_type(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, {"feeds.discover": ["VMP", "FW"], "feeds.flow": ["AU"]})
    assert_each_is_named(problems, "feeds.discover", "feeds.flow")


def test_a_pattern_of_the_other_type_is_named_beside_a_wrong_number(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, {"feeds.flow": ["AU"], "features.recency_days": 0.0})
    assert_each_is_named(problems, "feeds.flow", "features.recency_days")


def test_an_unknown_term_is_named_beside_a_negative_weight_of_the_same_kind(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, {"kinds.AU.weights": {"similarty": 3.5, "match": -3.0}})
    assert_each_is_named(problems, "similarty", "kinds.AU.weights.match: must be 0 or more")


def test_an_unknown_term_is_named_beside_a_wrong_number_of_the_same_kind(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, {"kinds.AU.weights": {"similarty": 3.5}, "kinds.AU.temperature": 0.0})
    assert_each_is_named(problems, "similarty", "kinds.AU.temperature")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "path", ["kinds.AU.weights.rarity", "kinds.NU.temperature", "kinds.VMP.alpha", "prior.hand_feature_mean"]
)
def test_a_number_that_is_not_finite_is_named(path: str, value: float, tmp_path: Path) -> None:
    problems = problems_of(tmp_path, {path: value})
    assert_each_is_named(problems, path)


@pytest.mark.parametrize(("name", "places"), [("skills", 5), ("knowledges", 3), ("tools", 3), ("languages", 3)])
def test_a_cut_beyond_the_catalogs_places_is_named(name: str, places: int, tmp_path: Path) -> None:
    problems = problems_of(tmp_path, {f"cuts.{name}": places + 1})
    assert_each_is_named(problems, f"cuts.{name}")


def test_a_pattern_may_not_name_a_kind_that_is_left_out(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, {"kinds.FW": None, "kinds.FLOW": None, "feeds.total": ["VMP", "FW"]})
    assert_each_is_named(problems, "feeds.total: names FW, which kinds leaves out", "feeds.flow: names FLOW")


def test_a_file_that_is_not_toml_or_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    with pytest.raises(ConfigurationError, match=r"policy\.toml: No such file"):
        load_policy(file)
    file.write_text("version = ", "utf-8")
    with pytest.raises(ConfigurationError, match=r"policy\.toml is not TOML"):
        load_policy(file)
    file.write_bytes(b'version = "\xff"')
    with pytest.raises(ConfigurationError, match=r"policy\.toml is not TOML"):
        load_policy(file)
    with pytest.raises(ConfigurationError, match=r"Is a directory"):
        load_policy(tmp_path)


def test_added_features_that_cannot_be_are_all_named(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    added = [
        ("quality", "views", "similarity"),
        ("fresh_match", "age_days", "match"),
        ("fresh_match", "views", "moon"),
        ("Not A Name", "shoe_size", "match"),
    ]
    tables = ['[[added_features]]\nname = "{}"\ncolumn = "{}"\ntimes = "{}"'.format(*one) for one in added]
    file.write_text("\n".join([toml(shipped_content()), *tables, "scale = 0.0"]), "utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_policy(file)
    assert_each_is_named(
        caught.value.problems,
        "added_features.0.name: there is a feature quality already",
        "added_features.2.name: there is a feature fresh_match already",
        "added_features.2.times",
        "added_features.3.name",
        "added_features.3.column",
        "added_features.3.scale",
    )


def test_more_features_than_there_is_room_for_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    tables = [f'[[added_features]]\nname = "f{n}"\ncolumn = "views"' for n in range(15)]
    file.write_text("\n".join([toml(shipped_content()), *tables]), "utf-8")
    with pytest.raises(ConfigurationError, match=r"added_features: Tuple should have at most 14 items"):
        load_policy(file)
