"""`recs source check` on the examples and on mappings that are wrong, on SQLite, MariaDB and PostgreSQL."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine
from sqlalchemy.engine import URL
from typer.testing import CliRunner

from examples.world import run
from recommendation_service import cli
from recommendation_service.core.config import load_settings
from recommendation_service.policies.choice import PolicyChoice
from recommendation_service.policies.store import PolicyStore
from recommendation_service.sources.mapping.mapping import load_mapping
from recommendation_service.sources.mapping.reading import read

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = ("jobs", "music", "blog")
BACKENDS = ("sqlite", "mariadb", "postgresql")
WARNING, ERROR = "warning", "error"


def fill(example: str, url: URL) -> None:
    module = importlib.import_module(f"examples.{example}.__main__")
    address = url.render_as_string(hide_password=False)
    assert run(example, module.METADATA, module.make, [address, "--people", "60"]) == 0


@pytest.fixture
def filled(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[str, str], URL]:
    """A database with an example; commands run in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))

    def make(example: str, backend: str) -> URL:
        url: URL = request.getfixturevalue(f"{backend}_url")
        fill(example, url)
        return url

    return make


def check(mapping: Path, url: URL, *, status: int = 0, feeds: bool = False) -> dict[str, Any]:
    """What the command prints as JSON."""
    options = ["--database", url.render_as_string(hide_password=False), "--feeds" if feeds else "--no-feeds", "--json"]
    done = CliRunner().invoke(cli.app, ["source", "check", str(mapping), *options])
    assert done.exit_code == status, done.output
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["status"] == status
    return report


def changed(folder: Path, example: str, *changes: tuple[str, str]) -> Path:
    """A copy of an example's mapping with something else in it."""
    text = (EXAMPLES / example / "mapping.toml").read_text("utf-8")
    for one, other in changes:
        assert one in text
        text = text.replace(one, other)
    file = folder / "mapping.toml"
    file.write_text(text, "utf-8")
    return file


def sentences(report: dict[str, Any], severity: str) -> list[str]:
    return [f"{one['name']}: {one['sentence']}" for one in report["findings"] if one["severity"] == severity]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("example", NAMES)
def test_each_example_can_be_built_and_nothing_in_it_is_odd(
    filled: Callable[[str, str], URL], example: str, backend: str
) -> None:
    report = check(EXAMPLES / example / "mapping.toml", filled(example, backend), feeds=True)
    assert [(len(feed["items"]), feed["user"] is None) for feed in report["feeds"]] == [(8, False)] * 4 + [(8, True)]
    assert report["feeds"][0]["latest"], "somebody who did something"
    assert report["feeds"][-1]["latest"] == []
    assert report["problems"] == []
    assert sentences(report, WARNING) == []
    for query in report["queries"]:
        assert query["rows"] > 0
        assert query["plan"]
        if query["user_plan"] is not None:
            assert all(step["key"] and step["access"] != "ALL" for step in query["user_plan"]), query
    for items in report["items"].values():
        assert len(items) == 5
        assert all(any(item["terms"].values()) for item in items)
    timeless = {"jobs": [], "music": ["events.favourite"], "blog": ["events.bookmark"]}[example]
    assert [s.split(":")[0] for s in sentences(report, "info") if "have no time" in s] == timeless


def test_marks_of_which_the_bad_ones_count_as_well_are_a_warning(
    filled: Callable[[str, str], URL], tmp_path: Path
) -> None:
    url = filled("jobs", "sqlite")
    query = "SELECT candidate_id, job_ad_id, sent_at"
    said = []
    for marks in ("", "\nmarks = [1, 5]"):
        value = f'weight = 5\nvalue = "stars"{marks}'
        mapping = changed(tmp_path, "jobs", (query, f"{query}, 1 + id % 5 AS stars"), ("weight = 5", value))
        said.append([one for one in check(mapping, url)["findings"] if one["severity"] == WARNING])
    [[warning], nothing] = said
    assert warning["sentence"] == "Its stars of 1 count for the items, too, if less than those of 5."
    assert "marks = [1, 5]" in warning["advice"]
    assert nothing == []


def test_what_has_no_weight_counts_for_no_item_and_what_gives_nothing_is_a_warning(
    filled: Callable[[str, str], URL], tmp_path: Path
) -> None:
    """What people disliked must not come to others as what they took."""
    url = filled("jobs", "sqlite")
    without = changed(tmp_path, "jobs", ("weight = 5", "weight = 0"))
    report = check(without, url)
    assert sentences(report, WARNING) == []
    assert "events.apply: Its weight is 0: what it gives counts for no item." in sentences(report, "info")
    with create_engine(url, poolclass=NullPool).connect() as connection:
        tables = read(load_mapping(without), connection)
    assert len(tables.events["apply"]) == 0 < len(tables.events["view"])

    nothing = changed(tmp_path, "jobs", ("sent_at FROM applications", "sent_at FROM applications WHERE id < 0"))
    [warning] = sentences(check(nothing, url), WARNING)
    assert warning == "events.apply: It gives no events that count."


@pytest.mark.parametrize("example", NAMES)
def test_an_examples_mapping_is_short(example: str) -> None:
    assert len((EXAMPLES / example / "mapping.toml").read_text("utf-8").splitlines()) < 60


@pytest.mark.parametrize("example", NAMES)
def test_an_example_is_the_same_for_the_same_seed(example: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"examples.{example}.__main__")
    dumps = []
    for place in range(2):
        url = f"sqlite:///{tmp_path / str(place)}.sqlite"
        assert run(example, module.METADATA, module.make, [url, "--people", "20", "--now", "2026-11-24T12:00:00Z"]) == 0
        with create_engine(url, poolclass=NullPool).connect() as connection:
            tables = module.METADATA.sorted_tables
            dumps.append([connection.execute(table.select()).fetchall() for table in tables])
    assert dumps[0] == dumps[1]


def test_an_example_touches_no_table_that_is_there(sqlite_url: URL, capsys: pytest.CaptureFixture[str]) -> None:
    fill("blog", sqlite_url)
    module = importlib.import_module("examples.blog.__main__")
    assert run("blog", module.METADATA, module.make, [str(sqlite_url)]) == 1
    assert "Name an empty one" in capsys.readouterr().err


def test_problems_of_file_and_queries_fail_and_name_line_and_column(
    filled: Callable[[str, str], URL], tmp_path: Path
) -> None:
    url = filled("jobs", "sqlite")
    mapping = changed(
        tmp_path, "jobs", ("SELECT a.id, a.title,", "SELECT a.id, a.tilte,"), ("seen_at FROM", "seenat FROM")
    )
    (title, seen) = check(mapping, url, status=1)["problems"]
    assert (title["line"], title["section"], title["column"]) == (10, "items.job", "tilte")
    assert title["instead"] == "did you mean a.title?"
    assert (seen["section"], seen["instead"]) == ("events.view", "did you mean seen_at?")
    report = check(changed(tmp_path, "jobs", ("SELECT id, city,", "SELECT id, citty,")), url, status=1)
    assert [problem["column"] for problem in report["problems"]] == ["citty"]
    assert not any("could not be asked" in one["sentence"] for one in report["findings"]), "it follows from the problem"
    mapping = changed(tmp_path, "jobs", ('time = "published_at"', 'tiem = "published_at"'))
    report = check(mapping, url, status=1)
    assert [problem["instead"] for problem in report["problems"]] == [
        "did you mean time?",
        "add time, the column of when it came",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("a.state = 'open'", "a.state = 'opened'"), "items: There is no item to show"),
        (
            (
                "SELECT candidate_id, job_ad_id, sent_at",
                "SELECT candidate_id, job_ad_id + 100000 AS job_ad_id, sent_at",
            ),
            "events.apply: None of its items is one of the items",
        ),
        (
            ("SELECT c.candidate_id AS id", "SELECT c.candidate_id + 100000 AS id"),
            "vocabularies.skill.users: None of its ids is one of the users: it holds other ids",
        ),
        (
            ('column = "city"', 'column = "city"\nuser = "wanted_salary"'),
            "filters.city: No user's value is one of an item's",
        ),
    ],
)
def test_what_can_be_read_and_makes_no_sense_fails(
    filled: Callable[[str, str], URL], tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    report = check(changed(tmp_path, "jobs", change), filled("jobs", "sqlite"), status=1)
    assert any(sentence.startswith(said) for sentence in sentences(report, ERROR)), report["findings"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("SELECT listener_uuid, artist_uuid FROM follows", "SELECT listener_uuid, one_uuid AS artist_uuid FROM x"),
            "links.follow: Nobody in it is a creator",
        ),
        (
            (
                "SELECT listener_uuid, artist_uuid FROM follows",
                "SELECT artist_uuid AS listener_uuid, artist_uuid FROM x",
            ),
            "links.follow: None of its users is one of the users",
        ),
        (
            ("[events.play]", "[creators]\nare_users = true\n[events.play]"),
            "items.track: No creator is one of the users",
        ),
    ],
)
def test_links_and_creators_that_fit_nobody_fail(
    filled: Callable[[str, str], URL], tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    joined = "friendships JOIN follows ON follows.listener_uuid = friendships.one_uuid"
    mapping = changed(tmp_path, "music", (change[0], change[1].replace(" x", f" {joined}")))
    report = check(mapping, filled("music", "sqlite"), status=1)
    assert any(sentence.startswith(said) for sentence in sentences(report, ERROR)), report["findings"]


@pytest.mark.parametrize(
    ("example", "change", "said"),
    [
        (
            "jobs",
            ("SELECT a.id, a.title,", "SELECT NULL AS id, a.title,"),
            "id: the column id holds nothing: all of its",
        ),
        (
            "jobs",
            ('items.job = "salary"', 'items.job = "title"'),
            "items: the column title holds no numbers, but such as",
        ),
        ("jobs", ("term, j.level FROM", "term, 'much' AS level FROM"), "weight: the column level holds no numbers"),
        ("music", ('column = "genres", form', 'column = "title", form'), "column: the column title holds no JSON, but"),
        (
            "music",
            ('column = "explicit"', 'column = "title"'),
            "column: the column title holds no numbers, but such as",
        ),
        (
            "blog",
            ("COALESCE(share_read, 0.5) AS", "'half' AS"),
            "value: the column share holds no numbers, but such as",
        ),
    ],
)
def test_a_column_that_holds_none_of_what_it_is_named_for_fails_by_its_name(
    filled: Callable[[str, str], URL], tmp_path: Path, example: str, change: tuple[str, str], said: str
) -> None:
    report = check(changed(tmp_path, example, change), filled(example, "sqlite"), status=1)
    assert any(problem["said"].startswith(said) for problem in report["problems"]), report["problems"]


def test_a_column_of_lists_is_recognised(filled: Callable[[str, str], URL], tmp_path: Path) -> None:
    report = check(changed(tmp_path, "music", (', form = "json"', "")), filled("music", "sqlite"))
    assert any("Terms look like JSON" in sentence for sentence in sentences(report, WARNING))


def test_events_that_could_not_be_written_are_an_error_and_one_without_a_query_is_none(
    filled: Callable[[str, str], URL], tmp_path: Path
) -> None:
    more = '[events.share]\nweight = 2\n\n[log]\ntable = "audit"\nevents = { who = "{user}" }\n\n[filters.city]'
    report = check(changed(tmp_path, "jobs", ("[filters.city]", more)), filled("jobs", "sqlite"), status=1)
    (sentence,) = sentences(report, ERROR)
    assert sentence.startswith("log: Events could not be written: there is no table audit")
    assert any(one.startswith("events.share: It has no query") for one in sentences(report, "info"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_query_of_one_user_that_reads_a_large_table_whole_is_named(
    filled: Callable[[str, str], URL], tmp_path: Path, backend: str
) -> None:
    url = filled("jobs", backend)
    with create_engine(url, poolclass=NullPool).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE logs (who INTEGER, what INTEGER)")
        connection.exec_driver_sql("INSERT INTO logs SELECT candidate_id, job_ad_id FROM ad_views")
        for _ in range(5):
            connection.exec_driver_sql("INSERT INTO logs SELECT * FROM logs")
    query = '[events.log]\nquery = "SELECT who, what FROM logs"\nuser = "who"\nitem = "what"\n\n[filters.city]'
    report = check(changed(tmp_path, "jobs", ("[filters.city]", query)), url)
    (sentence,) = [one for one in sentences(report, WARNING) if one.startswith("events.log")]
    assert sentence.startswith("events.log: Of one user it reads logs (about ")


def test_people_are_told_the_same_in_words(filled: Callable[[str, str], URL]) -> None:
    url = filled("blog", "sqlite")
    mapping = str(EXAMPLES / "blog" / "mapping.toml")
    done = CliRunner().invoke(cli.app, ["source", "check", mapping, "--database", str(url)])
    assert done.exit_code == 0
    for expected in ("events.read", "Some articles, the newest first", "A catalog can be built of it."):
        assert expected in done.stdout


def test_what_is_long_or_of_several_lines_is_told_in_one(filled: Callable[[str, str], URL], tmp_path: Path) -> None:
    prose = "'First line' || char(10) || 'second' || hex(zeroblob(200)) AS prose"
    mapping = changed(
        tmp_path,
        "jobs",
        ("SELECT a.id, a.title,", f"SELECT a.id, {prose}, a.title,"),
        ("fields = [", 'fields = ["prose", '),
    )
    url = filled("jobs", "sqlite")
    options = ["--database", url.render_as_string(hide_password=False)]
    done = CliRunner().invoke(cli.app, ["source", "check", str(mapping), *options], env={"COLUMNS": "500"})
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if "job First line second000" in line]
    assert len(lines) > 8
    assert not [line for line in done.stdout.splitlines() if line.startswith("second")]
    assert max(map(len, done.stdout.splitlines())) < 500


def test_without_a_mapping_the_next_step_is_named(filled: Callable[[str, str], URL]) -> None:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["source", "check"])
    assert done.exit_code == 2
    assert "recs source init" in done.output


def test_the_setting_names_the_mapping(filled: Callable[[str, str], URL], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAPPING_FILE", str(EXAMPLES / "music" / "mapping.toml"))
    monkeypatch.setenv("DATABASE_URL", str(filled("music", "sqlite")))
    assert CliRunner().invoke(cli.app, ["source", "check"]).exit_code == 0


def test_a_file_that_is_changed_after_a_version_was_published_is_not_what_is_served(
    filled: Callable[[str, str], URL], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A feed that is added to the file is in /docs, and was 503 for ever with nothing said of it."""
    url, mapping = filled("jobs", "sqlite"), changed(tmp_path, "jobs")
    monkeypatch.setenv("MAPPING_FILE", str(mapping))
    monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))

    def told() -> list[str]:
        return [one for one in sentences(check(mapping, url), "info") if one.startswith("feeds: ")]

    def publish() -> str:
        assert CliRunner().invoke(cli.app, ["policy", "publish"]).exit_code == 0
        return str(PolicyStore(load_settings().policy_dir, keep=10).current())

    def problems() -> list[str]:
        return PolicyChoice(load_settings()).take_up().problems

    assert told() == problems() == []
    version = publish()
    assert told() == problems() == []
    with mapping.open("a") as file:
        file.write('\n[kinds.front]\nweights = { newness = 1 }\n[feeds.front]\npattern = ["front"]\n')
    assert told() == [f"feeds: The policy {version} is served, and not the kinds and feeds of this file."]
    assert problems() == [
        f"The policy that is served, {version}, lacks feeds of the mapping: front. `recs policy publish` serves the "
        "kinds and feeds of its file."
    ]
    publish()
    assert told() == problems() == []


def test_the_schema_is_printed_for_editors() -> None:
    done = CliRunner().invoke(cli.app, ["source", "schema"])
    assert json.loads(done.stdout)["properties"]["items"]


@pytest.mark.parametrize("backend", ["sqlite", "mariadb", "postgresql"])
def test_ids_of_another_form_are_told_with_what_to_write(
    filled: Callable[[str, str], URL], tmp_path: Path, backend: str
) -> None:
    """UUIDs, where the mapping says nothing of ids: the first that one forgets."""
    url, mapping = filled("music", backend), tmp_path / "mapping.toml"
    text = (EXAMPLES / "music" / "mapping.toml").read_text()
    assert 'ids = "text"\n' in text
    mapping.write_text(text.replace('ids = "text"\n', ""))
    said = [problem["said"] + problem["instead"] for problem in check(mapping, url, status=1)["problems"]]
    assert any("holds no ids of the form integer" in one and 'write ids = "text"' in one for one in said)
