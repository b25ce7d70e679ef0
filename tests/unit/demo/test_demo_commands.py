"""`recs demo load`: what it prints, and with what status it ends."""

import json
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, text
from typer.testing import CliRunner, Result

from recommendation_service.demo import commands


def run(*arguments: str) -> Result:
    return CliRunner().invoke(commands.app, ["load", *arguments], env={"COLUMNS": "200", "TERM": "dumb"})


def rows_in(path: Path) -> int:
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT COUNT(*) FROM users")).scalar_one())


def test_a_load_ends_with_a_table_of_counts(tmp_path: Path) -> None:
    path = tmp_path / "demo.sqlite"

    result = run(f"sqlite:///{path}", "--scale", "0.01")

    assert result.exit_code == 0, result.output
    assert "activity_log" in result.stdout
    assert "8,000" in result.stdout
    assert rows_in(path) == 2_000


def test_json_is_the_whole_output(tmp_path: Path) -> None:
    result = run(f"sqlite:///{tmp_path / 'demo.sqlite'}", "--scale", "0.01", "--json")

    summary = json.loads(result.stdout)

    assert result.exit_code == 0
    assert summary["counts"]["users"] == 2_000
    assert summary["dirt"]["users_name_script"] == 3
    assert summary["source"] == "interacpedia"


def test_a_second_load_needs_replace(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'demo.sqlite'}"
    run(address, "--scale", "0.01")

    refused = run(address, "--scale", "0.01")
    replaced = run(address, "--scale", "0.01", "--replace")

    assert refused.exit_code == 1
    assert "--replace" in refused.stderr
    assert "Traceback" not in refused.output
    assert replaced.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["sqlite:///x.sqlite", "--scale", "0"], 2, "scale must be above 0"),
        (["nonsense"], 2, "not a database address"),
        (["nosuch://host/db"], 2, "no driver"),
        (["sqlite:///no-such-folder/x.sqlite"], 1, "Cannot reach the database"),
        (["mysql+pymysql://root:secret@127.0.0.1:1/db"], 1, "Cannot reach the database"),
        (["sqlite:///x.sqlite", "--from", "elsewhere"], 2, "elsewhere"),
        (["sqlite:///x.sqlite", "--seed", "-1"], 2, "seed"),
    ],
)
def test_a_mistake_is_a_sentence_and_a_status(
    arguments: list[str], status: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    result = run(*arguments)

    assert result.exit_code == status, result.output
    assert said in result.stderr
    assert "secret" not in result.output
    assert "Traceback" not in result.output


def test_without_an_address_the_settings_name_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "not-yet-there" / "named.sqlite"
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{path}")

    result = run("--scale", "0.01")

    assert result.exit_code == 0, result.output
    assert rows_in(path) == 2_000


def test_settings_that_cannot_be_used_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "nonsense")

    result = run()

    assert result.exit_code == 2
    assert "DATABASE_URL" in result.stderr
    assert "Traceback" not in result.output


def test_help_has_examples() -> None:
    result = run("--help")

    assert result.exit_code == 0
    assert "recs demo load sqlite:///demo.db --scale 0.1" in result.stdout
    assert "--from movielens" in result.stdout
