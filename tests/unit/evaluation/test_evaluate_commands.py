"""`recs evaluate replay` in this process, on a small log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import structlog
from typer.testing import CliRunner, Result

from recommendation_service import cli
from recommendation_service.evaluation import commands, methods
from recommendation_service.mappings.shipped import STARTING_POLICY
from tests.unit.evaluation.logs import DAY, MIDNIGHT

QUICK = ("--method", "service", "--method", "popularity", "--method", "ease")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """With events.csv and items.csv: pairs of items that are taken together."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    configured = structlog.get_config()
    rows = [
        (user, 2 * ((user * 7 + turn * 3) % 10) + step, int(MIDNIGHT + (user / 6 + turn / 10 + step / 100) * DAY))
        for user in range(60)
        for turn in range(3)
        for step in (0, 1)
    ]
    pd.DataFrame(rows, columns=["user_id", "item_id", "happened_at"]).to_csv("events.csv", index=False)
    pd.DataFrame({"item_id": range(20), "skills": ["even", "odd"] * 10}).to_csv("items.csv", index=False)
    yield tmp_path
    structlog.configure(**configured)


def replay(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ("evaluate", "replay", *arguments))


def test_json_has_an_object_a_method_and_protocol_and_a_chart_is_drawn(folder: Path) -> None:
    done = replay("--events", "events.csv", "--items", "items.csv", *QUICK, "--json", "--chart", "charts")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [(each["protocol"], each["name"]) for each in found] == [
        (protocol, name) for protocol in ("prequential", "last_item") for name in ("service", "popularity", "ease")
    ]
    for each in found:
        low, high = each["intervals"]["ndcg_10"]
        assert 0 <= low <= each["ndcg_10"] <= high <= 1
        assert 0 <= each["coverage"] <= 1
        assert {"hit_10", "gini", "novelty", "calibration", "by_history", "by_item_age"} <= set(each)
    assert found[2]["hyperparameters"]["regularization"] > 0
    assert (folder / "charts" / "quality.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "charts" / "quality.html").read_text("utf-8")
    assert "<script src=" not in page  # it needs no network


def test_a_table_a_protocol_is_printed_with_the_service_first() -> None:
    done = replay("--events", "events.csv", "--protocol", "last_item", *QUICK)
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines() if line]
    assert lines[0][:2] == ["Last", "item:"]
    assert [line[0] for line in lines[2:5]] == ["service", "popularity", "ease"]


def test_a_policy_file_is_replayed(folder: Path) -> None:
    shipped = STARTING_POLICY.read_text("utf-8")
    (folder / "mine.toml").write_text(shipped.replace('version = "starting-2"', 'version = "mine"'), "utf-8")
    done = replay(
        *("--events", "events.csv", "--protocol", "last_item"),
        *("--method", "service", "--policy", "mine.toml", "--json"),
    )
    assert json.loads(done.stdout)[0]["hyperparameters"]["policy"].startswith("mine")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give either --data or --events"),
        (("--data", "movielens", "--events", "events.csv"), "give either --data or --events"),
        (("--data", "movielens", "--items", "items.csv"), "describes the items of --events"),
        (("--events", "events.csv", "--method", "bert"), "bert: the methods are service, service_full, random"),
        (("--events", "nothing.csv"), "nothing.csv cannot be read"),
        (("--events", "items.csv"), "there is no column user_id, happened_at"),
    ],
)
def test_wrong_use_is_one_sentence(arguments: tuple[str, ...], words: str) -> None:
    done = replay(*arguments)
    assert done.exit_code != 0
    assert words in " ".join(done.output.replace("│", " ").split())
    assert "Traceback" not in done.output


def test_a_chart_that_cannot_be_written_is_told_before_the_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").touch()
    monkeypatch.setattr(commands, "_log", lambda *_: pytest.fail("the log was read"))
    assert isinstance(replay("--events", "events.csv", "--chart", "file/charts").exception, OSError)


def test_without_the_extra_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_NEEDED", ("altair", "not_installed_here"))
    done = replay("--events", "events.csv")
    assert done.exit_code == 1
    assert "Evaluations need not_installed_here" in done.output
    assert "pip install '.[evaluation]'" in done.output


def test_the_methods_are_those_of_the_report() -> None:
    assert set(methods.NAMES) - {"service", "service_full"} == set(methods.baselines_by_name(0))
