"""`recs feed USER` under a mapping, with ids that are text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.core.config import Settings
from tests.support.job_board import handle_of

Run = Callable[..., Result]


@pytest.fixture
def run(board: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    assert board.database_url is not None
    assert isinstance(board.mapping_file, Path)
    monkeypatch.setenv("DATA_DIR", str(board.data_dir))
    monkeypatch.setenv("DATABASE_URL", board.database_url.get_secret_value())
    monkeypatch.setenv("MAPPING_FILE", str(board.mapping_file))
    return lambda *arguments: CliRunner().invoke(cli.app, ["feed", *arguments])


def test_a_person_of_a_mapping_is_shown_their_feed_and_why(run: Run) -> None:
    shown = run(handle_of(3), "--size", "4")

    assert shown.exit_code == 0, shown.output
    assert f"Feed of user {handle_of(3)}, catalog" in shown.output
    assert shown.output.count("job ") == 4
    assert "(not in the catalog)" in run("nobody-of-theirs").output
    assert "Feed of anonymous" in run("0").output


def test_what_is_excluded_stays_away_and_what_is_missing_is_told_by_its_own_id(run: Run) -> None:
    first = json.loads(run(handle_of(3), "--size", "2", "--request-id", "same", "--json").stdout)["ids"]

    again = run(handle_of(3), "--size", "2", "--request-id", "same", "--json", "--exclude", ",".join(first))
    assert not set(json.loads(again.stdout)["ids"]) & set(first)
    told = run(handle_of(3), "--size", "2", "--exclude", first[0], "--missing", f"job:{first[0]}").output
    assert f"job {first[0]}: excluded" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("x", "--endpoint", "total"), "'total' is not one of home"),
        (("x" * 400,), "must be text of 1 to"),
        (("x", "--missing", "shoe:1"), "with a TYPE of job"),
        (("x", "--missing", "job:"), "must have an id of 1 to"),
    ],
)
def test_what_a_mapping_has_not_is_told(run: Run, arguments: tuple[str, ...], said: str) -> None:
    refused = run(*arguments)

    assert refused.exit_code == 2
    assert said in " ".join(refused.output.replace("│", " ").split())
