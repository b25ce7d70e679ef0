"""`recs evaluate off-policy --log FILE`: what it prints, what it says of bad lines, and its exit status."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner, Result

from recommendation_service import cli
from tests.support.decision_logs import as_lines, drawn_log, single_slot_log, two_slot_log, write_log


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    configured = structlog.get_config()
    yield
    structlog.configure(**configured)


def _off_policy(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ("evaluate", "off-policy", *arguments))


def test_a_table_has_each_policy_with_its_verdict_and_the_reason_to_refuse() -> None:
    write_log(Path("log"), as_lines(drawn_log(600)))
    done = _off_policy("--log", "log", "--policy", "even", "--policy", "index:3")
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0][:4] == ["600", "events", "of", "log"]
    assert [row[0] for row in rows if row and row[0] in {"even", "index:3"}] == ["even", "index:3"]
    small = _off_policy("--log", str(write_log(Path("small"), as_lines(two_slot_log()))), "--policy", "even")
    assert small.exit_code == 0
    assert "even: Slot 2 has an effective sample size of 1.5 of 2 feeds, under 100" in small.stdout
    assert "0.833333   0.625000" in small.stdout  # by product, and by the slot's own ratio


def test_json_has_figures_and_null_where_nothing_can_be_told() -> None:
    write_log(Path("log"), as_lines(single_slot_log()))
    found = json.loads(_off_policy("--log", "log", "--json").stdout)
    assert [each["policy"] for each in found["policies"]] == ["even", "index:0", "learner"]
    even = found["policies"][0]
    assert (even["ips"], even["verdict"], even["difference"]) == (pytest.approx(0.21875), "refused", None)
    assert (found["form"], found["events"], found["from"]) == ("single", 3, "2026-03-01T08:00:01+00:00")


def test_refused_lines_are_named_counted_and_written() -> None:
    good = as_lines(single_slot_log())
    cut, left_out = [good[0][:40]] * 25, as_lines([single_slot_log()[0] | {"_skipLearn": True}])
    write_log(Path("log"), [*good, *cut, *left_out, good[0]])
    done = _off_policy("--log", "log", "--policy", "even", "--refused", "refused.jsonl")
    assert done.exit_code == 0
    assert "line 4: no whole JSON object" in done.stderr
    assert "line 23: " in done.stderr
    assert "line 24: " not in done.stderr
    assert "1 events have the EventId of one before, and count once more (lines 30)" in done.stdout
    written = [json.loads(line) for line in Path("refused.jsonl").read_text().splitlines()]
    assert [line["line"] for line in written] == list(range(4, 30))
    assert [line["reason"] for line in written[-2:]] == ["not_json", "not_activated"]
    found = json.loads(_off_policy("--log", "log", "--json").stdout)
    assert (found["refused"], found["left_out"]) == ({"not_json": 25}, {"not_activated": 1})
    assert len(found["refused_lines"]) == 25


def test_a_log_of_which_nothing_can_be_weighed_fails() -> None:
    write_log(Path("log"), [b"{}", b"nonsense"])
    done = _off_policy("--log", "log")
    assert done.exit_code == 1
    assert "no actions" in done.stdout
    write_log(Path("empty"), [])
    assert _off_policy("--log", "empty", "--json").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--log", "missing"), 1, "Error: missing: No such file or directory"),
        (("--log", "."), 1, "Error: .: Is a directory"),
        (("--log", "log", "--refused", "missing/file"), 1, "Error: missing/file: No such file or directory"),
        (("--log", "log", "--policy", "evn"), 2, "evn is none of the policies"),
        (("--log", "log", "--policy", "mix:2"), 2, "'2' is no share from 0 to 1"),
    ],
)
def test_wrong_use_is_one_sentence(arguments: tuple[str, ...], status: int, said: str) -> None:
    write_log(Path("log"), as_lines(single_slot_log()))
    done = _off_policy(*arguments)
    assert (done.exit_code, done.stdout) == (status, "")
    assert said in done.stderr


def test_apprentice_mode_is_refused_until_the_cost_is_named() -> None:
    write_log(Path("log"), as_lines(event | {"_original_label_cost": -0.75} for event in single_slot_log()))
    assert _off_policy("--log", "log").exit_code == 1
    found = json.loads(_off_policy("--log", "log", "--costs", "original", "--policy", "mix:0", "--json").stdout)
    assert found["policies"][0]["ips"] == pytest.approx(0.75)


def test_a_form_that_is_named_is_the_one_that_is_weighed() -> None:
    write_log(Path("log"), as_lines([*single_slot_log(), *two_slot_log()]))
    found = json.loads(_off_policy("--log", "log", "--form", "ccb", "--policy", "even", "--json").stdout)
    assert (found["events"], found["refused"]) == (2, {"form": 3})
