"""`recs` as a user runs it, on the embedded demo."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.service import load_demo, recs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the demo database, and a catalog that was built by the command."""
    folder = tmp_path_factory.mktemp("recs")
    load_demo(folder)
    done = recs("catalog", "build", folder=folder)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Published \d{8}T\d{6}\.\d{6}Z", done.stdout)
    for word in ("videos", "challenges", "all queries", "building", "Set aside", "not JSON"):
        assert word in done.stdout
    return folder


def output(folder: Path, *arguments: str) -> str:
    done = recs(*arguments, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def as_json(folder: Path, *arguments: str) -> Any:
    """The result of a command with --json, which must be nothing but that."""
    return json.loads(output(folder, *arguments, "--json"))


def refused(folder: Path, *arguments: str, status: int) -> str:
    """What a command says that must fail: a sentence, and no traceback."""
    done = recs(*arguments, folder=folder)
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stdout.strip() == ""
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def known_user(folder: Path) -> int:
    """Somebody with a history."""
    database = folder / "data" / "interacpedia.sqlite"
    with closing(sqlite3.connect(database)) as connection:
        users = connection.execute(
            "SELECT user_id FROM likes WHERE type = 'save' AND user_id > 0 GROUP BY user_id ORDER BY COUNT(*) DESC"
        ).fetchall()
    for (user,) in users:
        shown = recs("catalog", "show", "--user", str(user), "--json", folder=folder)
        if shown.returncode == 0 and json.loads(shown.stdout)["history"]:
            return int(user)
    raise AssertionError("the demo has no user with a history")


def test_in_another_folder_it_says_where_it_looks_and_makes_nothing(tmp_path: Path) -> None:
    """And where the files of the installation are."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = [str(Path(sys.executable).with_name("recs")), "catalog", "list"]
    said = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert "recs catalog build" in said.stdout
    assert f"in {tmp_path / 'var'}." in said.stderr
    assert f"run this in {Path(__file__).parents[2]}, or set DATA_DIR" in said.stderr
    assert list(tmp_path.iterdir()) == []


# recs catalog


def test_build_says_what_it_did_in_json(folder: Path) -> None:
    report = as_json(folder, "catalog", "build")
    assert report["version"]
    assert report["counts"]["videos"] > 24
    assert set(report["query_milliseconds"]) >= {"users", "videos", "challenges", "connections"}
    assert report["build_milliseconds"] > 0
    assert {"column", "reason", "count"} == set(report["set_aside"][0])
    assert isinstance(report["warnings"], list)


def test_build_warns_of_a_malformed_line_with_its_number(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cities.csv").write_text("bogota,Bogotá\nonly-one-field\n")
    settings = {"CITIES_FILE": str(tmp_path / "cities.csv")}
    done = recs("catalog", "build", "--json", folder=folder, settings=settings)
    assert done.returncode == 0, done.stderr
    assert any("line 2" in warning for warning in json.loads(done.stdout)["warnings"])


def test_list_has_the_versions_newest_first_and_says_which_is_current(folder: Path) -> None:
    built = as_json(folder, "catalog", "build")["version"]
    rows = as_json(folder, "catalog", "list")
    versions = [row["version"] for row in rows]
    assert versions == sorted(versions, reverse=True)
    assert [row["version"] for row in rows if row["current"]] == [built]
    assert rows[0]["counts"]["videos"] > 24
    assert rows[0]["bytes"] > 1000
    table = output(folder, "catalog", "list")
    assert all(version in table for version in versions)
    assert "current" in table


def test_verify_finds_a_damaged_file(folder: Path) -> None:
    version = as_json(folder, "catalog", "build")["version"]
    assert "every file is whole" in output(folder, "catalog", "verify")
    assert as_json(folder, "catalog", "verify", version) == {"version": version, "problems": []}
    column = folder / "data" / "catalogs" / version / "features.npy"
    whole = column.read_bytes()
    try:
        column.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        done = recs("catalog", "verify", folder=folder)
        assert done.returncode == 1
        assert "features.npy" in done.stderr
        done = recs("catalog", "verify", "--json", folder=folder)
        assert done.returncode == 1
        assert "features.npy" in json.loads(done.stdout)["problems"][0]
        assert "damaged" in refused(folder, "feed", "0", status=1)
    finally:
        column.write_bytes(whole)
    assert "every file is whole" in output(folder, "catalog", "verify")


def test_show_tells_of_the_version_an_item_or_a_user(folder: Path, known_user: int) -> None:
    manifest = as_json(folder, "catalog", "show")
    assert manifest["report"]["counts"]["videos"] > 24
    assert manifest["version"] in output(folder, "catalog", "show", manifest["version"])
    feed = as_json(folder, "feed", "0")["body"]["items"]
    for item in (next(item for item in feed if item["type"] == kind) for kind in ("resume", "challenge")):
        described = as_json(folder, "catalog", "show", "--item", f"{item['type']}:{item['id']}")
        assert described["item"]["id"] == item["id"]
        assert len(described["features"]) == 18
    assert as_json(folder, "catalog", "show", "--user", str(known_user))["user_id"] == known_user
    assert str(known_user) in output(folder, "catalog", "show", "--user", str(known_user))


@pytest.mark.parametrize(
    "arguments",
    [
        ("catalog", "show", "--item", "resume:999999"),
        ("catalog", "show", "--item", "challenge:999999"),
        ("catalog", "show", "--user", "999999999"),
        ("catalog", "show", "20200101T000000.000000Z"),
    ],
    ids=" ".join,
)
def test_what_is_not_in_the_catalog_is_said_in_a_sentence(folder: Path, arguments: tuple[str, ...]) -> None:
    assert refused(folder, *arguments, status=1).startswith("Error: ")


# recs feed


@pytest.mark.parametrize("endpoint", ["total", "discover", "flow"])
def test_feed_shows_slot_terms_and_propensity_of_each_item(folder: Path, known_user: int, endpoint: str) -> None:
    table = output(folder, "feed", str(known_user), "--endpoint", endpoint, "--size", "6", "--request-id", "one")
    content = as_json(folder, "feed", str(known_user), "--endpoint", endpoint, "--size", "6", "--request-id", "one")
    assert content["statusCode"] == 200
    items = content["body"]["items"]
    assert len(items) == 6
    assert f"user {known_user}" in table
    assert "not in the catalog" not in table
    for item in items:
        assert f"{item['type']} {item['id']}" in table
        assert f"{item['why']['propensity']:.4f}" in table
        assert f"{item['why']['score']:.2f}" in table
        largest = max(item["why"]["terms"].items(), key=lambda term: abs(term[1]), default=None)
        assert largest is None or largest[0] in table
    assert {item["why"]["slot"] for item in items} <= set(re.findall(r"\b[A-Z]{2,3}\b", table))


def test_feed_says_who_it_is_for(folder: Path) -> None:
    assert "anonymous" in output(folder, "feed", "0", "--size", "1")
    assert "not in the catalog" in output(folder, "feed", "999999999", "--size", "1")


def test_feed_with_the_same_request_id_is_the_same_feed(folder: Path, known_user: int) -> None:
    first, second = (as_json(folder, "feed", str(known_user), "--request-id", "one") for _ in range(2))
    assert first == second
    assert first["body"]["request_id"] == "one"
    others = [as_json(folder, "feed", str(known_user))["body"]["request_id"] for _ in range(2)]
    assert len(set(others)) == 2


def test_feed_leaves_out_what_is_excluded(folder: Path) -> None:
    shown = as_json(folder, "feed", "0", "--endpoint", "discover", "--size", "100")["body"]["resume_ids"]
    left_out = shown[:20]
    again = as_json(folder, "feed", "0", "--endpoint", "discover", "--size", "100", "--exclude", ",".join(left_out))
    assert set(again["body"]["resume_ids"]) == set(shown) - set(left_out)


@pytest.mark.parametrize(
    "arguments",
    [("feed", "0", "--exclude", "a,b"), ("feed", str(2**63)), ("feed", "99999999999999999999")],
    ids=" ".join,
)
def test_feed_used_wrongly_is_told_so(folder: Path, arguments: tuple[str, ...]) -> None:
    assert refused(folder, *arguments, status=2)


def test_feed_for_the_largest_user_number_is_a_feed(folder: Path) -> None:
    assert len(as_json(folder, "feed", str(2**63 - 1))["body"]["items"]) == 24


@pytest.mark.parametrize("request_id", ['a"b', "a\\b", "é"])
def test_feed_in_json_is_json_whatever_the_request_is_called(folder: Path, request_id: str) -> None:
    done = recs("feed", "0", "--size", "1", "--request-id", request_id, "--json", folder=folder)
    if done.returncode == 0:
        assert json.loads(done.stdout)["body"]["request_id"] == request_id
    else:
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


# recs config, recs demo


def test_config_is_a_table_or_json_without_secrets(folder: Path) -> None:
    secrets = {"MYSQL_PASSWORD": "hidden-1", "ADMIN_TOKEN": "hidden-22", "API_KEYS": "hidden-3,hidden-4"}
    for form in ((), ("--json",)):
        done = recs("config", *form, folder=folder, settings=secrets)
        assert done.returncode == 0, done.stderr
        assert "hidden-" not in done.stdout + done.stderr
        assert "CATALOG_REFRESH_SECONDS" in done.stdout


def test_demo_load_and_catalog_build_lead_to_a_first_feed(tmp_path: Path) -> None:
    loaded = as_json(tmp_path, "demo", "load", "--scale", "0.02")
    assert loaded["counts"]["resumes"] > 24
    refused(tmp_path, "demo", "load", "--scale", "0.02", status=1)  # it does not overwrite what is there
    assert as_json(tmp_path, "catalog", "build")["counts"]["videos"] > 24
    assert len(as_json(tmp_path, "feed", "0")["body"]["mix_ids"]) == 24


# What cannot be written or read


COMMANDS = (
    ("config",),
    ("catalog", "list"),
    ("catalog", "show", "--json"),
    ("catalog", "verify"),
    ("events", "status"),
    ("events", "dead"),
    ("migrate", "--dry-run"),
    ("doctor",),
    ("feed", "0"),
    ("--help",),
)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_full_disk_behind_the_output_is_said_in_a_sentence(folder: Path, arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = recs(*arguments, folder=folder, stdout=full)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "Error: the output cannot be written: No space left on device"
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_early_is_no_error(folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = recs("catalog", "show", "--json", folder=folder, stdout=closed)
    assert done.stderr == ""
    assert done.returncode != 0


# As a user whom the folder does not belong to: root without the capabilities that let it write everywhere.
STRANGER = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner") if os.geteuid() == 0 else ()


@pytest.fixture
def of_another(folder: Path) -> Iterator[Path]:
    """The folder, belonging to somebody else who lets others read."""
    if not STRANGER:
        pytest.skip("needs root, to give a folder to another user")
    owned = [folder / "data", *(folder / "data").rglob("*")]
    for path in owned:
        os.chown(path, 65534, 65534)
    yield folder
    for path in owned:
        os.chmod(path, 0o755 if path.is_dir() else 0o644)
        os.chown(path, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("catalog", "build"), "build.lock: Permission denied|readonly database"),
        (("events", "flush"), "Permission denied"),
        (("events", "dead", "--replay"), "Permission denied"),
        (("migrate",), "readonly database"),
        (("demo", "load", "--replace"), "readonly database"),
    ],
    ids=str,
)
def test_what_may_not_be_written_is_said_in_a_sentence(of_another: Path, arguments: tuple[str, ...], said: str) -> None:
    done = recs(*arguments, folder=of_another, through=STRANGER)
    assert done.returncode == 1, done.stdout
    assert re.search(said, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [("catalog", "list"), ("catalog", "verify"), ("feed", "0"), ("events", "export")], ids=" ".join
)
def test_a_folder_that_may_not_be_looked_into_is_said_so(of_another: Path, arguments: tuple[str, ...]) -> None:
    (of_another / "data").chmod(0o700)
    done = recs(*arguments, folder=of_another, through=STRANGER)
    assert done.returncode == 1, done.stdout
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_and_versions_come_whole_through_a_pipe(folder: Path) -> None:
    [line] = [line for line in output(folder, "config").splitlines() if "CATALOG_REFRESH_SECONDS" in line]
    assert line.split()[:3] == ["CATALOG_REFRESH_SECONDS", "10", "seconds"]
    version = as_json(folder, "catalog", "list")[0]["version"]
    assert any(line.startswith(f"{version}  ") for line in output(folder, "catalog", "list").splitlines())
    item = as_json(folder, "feed", "0", "--request-id", "x")["body"]["items"][0]
    assert any(item["name"] in line for line in output(folder, "feed", "0", "--request-id", "x").splitlines())
