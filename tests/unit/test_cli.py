"""`recs` in this process: help, settings, and what is said where something is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer.main
from typer.testing import CliRunner

from recommendation_service import __version__, cli
from recommendation_service.core.config import Settings

SECRETS = {
    "MYSQL_PASSWORD": "hidden-password",
    "ADMIN_TOKEN": "hidden-token",
    "API_KEYS": "hidden-key-1,hidden-key-2",
    "DATABASE_URL": "mysql+pymysql://somebody:hidden-url@db.example/interacpedia",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory; a command's own way of logging ends with the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    configured = structlog.get_config()
    yield tmp_path
    structlog.configure(**configured)


def recs(*arguments: str) -> str:
    """Standard output of a command that has to succeed."""
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def settings_shown() -> dict[str, dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(recs("config", "--json"))
    return {row["setting"]: row for row in rows}


def commands(group: Any = None, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it."""
    group = group or typer.main.get_command(cli.app)
    for name, command in group.commands.items():
        yield (*prefix, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*prefix, name))


ALL_COMMANDS = dict(commands())


@pytest.mark.parametrize("words", ALL_COMMANDS, ids=" ".join)
def test_every_command_explains_itself_and_each_of_its_options(words: tuple[str, ...]) -> None:
    shown = " ".join(recs(*words, "--help").split())
    assert "Usage:" in shown
    for parameter in ALL_COMMANDS[words].params:
        if parameter.name != "help" and not hasattr(ALL_COMMANDS[words], "commands"):
            assert parameter.help, f"{parameter.name} is not explained"
            if parameter.param_type_name == "option":
                assert parameter.opts[0] in shown


def test_the_commands_of_the_contract_are_there() -> None:
    words = {" ".join(words) for words in ALL_COMMANDS}
    assert {"serve", "feed", "config", "demo load"} <= words
    assert {f"catalog {name}" for name in ("build", "list", "verify", "show")} <= words


@pytest.mark.parametrize("arguments", [(), ("catalog",), ("demo",)])
def test_a_group_without_a_command_lists_its_commands(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli.app, arguments)
    assert "Commands" in done.output


def test_version() -> None:
    assert recs("--version").strip() == __version__


# recs config


def test_config_shows_every_setting_with_value_unit_origin_and_meaning() -> None:
    shown = settings_shown()
    assert set(shown) == {name.upper() for name in Settings.model_fields}
    for row in shown.values():
        assert set(row) == {"setting", "value", "unit", "origin", "meaning"}
        assert row["meaning"], f"{row['setting']} is not explained"
        assert row["origin"] == "default"
    assert shown["API_PORT"]["value"] == "5005"
    assert shown["GUNICORN_TIMEOUT"] == {
        "setting": "GUNICORN_TIMEOUT",
        "value": "120",
        "unit": "seconds",
        "origin": "default",
        "meaning": shown["GUNICORN_TIMEOUT"]["meaning"],
    }
    assert shown["TEST_ROW_WORDS"]["value"] == "prueba,test"


def test_config_says_where_a_value_comes_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("API_PORT=6001\nLOG_LEVEL=debug\nSOMETHING_ELSE=1\nAPI_PATH=\n")
    monkeypatch.setenv("LOG_LEVEL", "error")
    monkeypatch.setenv("GUNICORN_BIND", "")  # empty is as good as unset
    shown = settings_shown()
    assert (shown["API_PORT"]["value"], shown["API_PORT"]["origin"]) == ("6001", ".env")
    assert (shown["LOG_LEVEL"]["value"], shown["LOG_LEVEL"]["origin"]) == ("error", "environment")
    assert shown["GUNICORN_BIND"]["origin"] == "default"
    assert (shown["API_PATH"]["value"], shown["API_PATH"]["origin"]) == ("", ".env"), "empty is a prefix of its own"
    assert shown["API_HOST"]["origin"] == "default"


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["table", "json"])
@pytest.mark.parametrize("place", ["environment", ".env"])
def test_config_hides_secrets(
    folder: Path, monkeypatch: pytest.MonkeyPatch, secret: str, form: tuple[str, ...], place: str
) -> None:
    if place == "environment":
        monkeypatch.setenv(secret, SECRETS[secret])
    else:
        (folder / ".env").write_text(f"{secret}={SECRETS[secret]}\n")
    shown = recs("config", *form)
    assert "hidden-" not in shown
    row = settings_shown()[secret]
    assert row["value"] == "********"
    assert row["origin"] == place


def test_config_says_which_secrets_are_not_set() -> None:
    shown = settings_shown()
    assert {shown[secret]["value"] for secret in SECRETS} == {""}


# Where something is wrong.


def failed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit status and standard error of the command as it is installed."""
    monkeypatch.setattr("sys.argv", ["recs", *arguments])
    try:
        status = cli.main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    captured = capsys.readouterr()
    assert captured.out == "", "what went wrong is not a result"
    assert "Traceback" not in captured.err
    return status, captured.err


def test_settings_that_cannot_be_used_are_all_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"API_PORT": "0", "LOG_LEVEL": "loud", "MYSQL_USER": "x", "ADMIN_TOKEN": "short"}.items():
        monkeypatch.setenv(name, value)
    for arguments in (("config",), ("catalog", "list"), ("feed", "1"), ("serve",)):
        status, said = failed(monkeypatch, capsys, *arguments)
        assert status == 2
        assert all(name in said for name in ("API_PORT", "LOG_LEVEL", "MYSQL_HOST", "ADMIN_TOKEN"))
        assert "short" not in said


@pytest.mark.parametrize("arguments", [("feed", "1"), ("catalog", "verify"), ("catalog", "show")], ids=" ".join)
def test_without_a_catalog_the_next_step_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    status, said = failed(monkeypatch, capsys, *arguments)
    assert status == 1
    assert "recs catalog build" in said


def test_without_a_database_the_next_step_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = failed(monkeypatch, capsys, "catalog", "build")
    assert status == 1
    assert "recs demo load" in said
    assert "MYSQL_HOST" in said


def test_without_a_catalog_the_list_is_empty_and_no_error() -> None:
    assert json.loads(recs("catalog", "list", "--json")) == []
    assert "recs catalog build" in recs("catalog", "list")


@pytest.mark.parametrize(
    "arguments",
    [
        ("feed",),
        ("feed", "abc"),
        ("feed", "--", "-1"),
        ("feed", "1", "--size", "0"),
        ("feed", "1", "--size", "101"),
        ("feed", "1", "--endpoint", "nope"),
        ("feed", "1", "--nope"),
        ("serve", "--port", "70000"),
        ("nope",),
    ],
    ids=" ".join,
)
def test_a_command_used_wrongly_ends_with_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    status, said = failed(monkeypatch, capsys, *arguments)
    assert status == 2
    assert said
