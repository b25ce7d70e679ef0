"""Feeds of many users at once, as whoever sends e-mails needs them: over HTTP, and by `recs feed --users`."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import PolicyError, SourceError
from recommendation_service.experiments.assignment import Assignment
from recommendation_service.feed.sentences import say
from recommendation_service.log.records import FeedRecord, decode
from recommendation_service.log.segments import SUFFIX, scan
from recommendation_service.model.text_ids import USER_BITS, number_of_text
from recommendation_service.policies.choice import begun_with
from recommendation_service.policies.experiment import Arm
from recommendation_service.policies.experiments import start_experiment
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.store import PolicyStore
from tests.end_to_end.in_process import logs_left_alone, make_app, served
from tests.end_to_end.service import ADMIN_TOKEN, PATIENCE_SECONDS
from tests.servers import wait_until
from tests.support.job_board import handle_of, years_of

ADMINISTRATOR = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
Run = Callable[..., Result]
Apart = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def client(board: Settings) -> Iterator[httpx.Client]:
    options = {"database_url": board.database_url, "mapping_file": board.mapping_file, "event_flusher": False}
    app = make_app(board.data_dir, **options, seen_megabytes=16, admin_token=ADMIN_TOKEN)
    with logs_left_alone(), served(app) as client:
        ready = wait_until(lambda: client.get("/ready").status_code == 200, PATIENCE_SECONDS)
        assert ready, client.get("/ready").text
        yield client


@pytest.fixture
def run(board: Settings, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`recs feed …`, of the board and beside its service."""
    assert board.database_url is not None
    values = {
        "DATA_DIR": board.data_dir,
        "DATABASE_URL": board.database_url.get_secret_value(),
        "MAPPING_FILE": board.mapping_file,
        "ADMIN_TOKEN": ADMIN_TOKEN,
        "API_PORT": client.base_url.port,
        "SEEN_MEGABYTES": 16,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))

    def run(*arguments: str, text: str | None = None) -> Result:
        return CliRunner().invoke(cli.app, ["feed", *arguments], input=text)

    return run


@pytest.fixture
def apart(run: Run) -> Apart:
    """The same in a process of its own: what users have seen is opened once in each."""
    assert run

    def apart(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("recs")), "feed", *arguments]
        return subprocess.run(
            command, input=text, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
        )

    return apart


def batch(client: httpx.Client, text: str | bytes, status: int = 200, **query: Any) -> list[dict[str, Any]]:
    answer = client.post("/api/feeds/home/batch", content=text, params=query, headers=ADMINISTRATOR)
    assert answer.status_code == status, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def recorded(board: Settings) -> set[str]:
    """Request ids of the feeds that the log has."""
    payloads = [payload for path in board.events_dir.glob(f"*{SUFFIX}") for payload in scan(path).payloads]
    records = [decode(payload) for payload in payloads]
    return {record.request_id.hex() for record in records if isinstance(record, FeedRecord)}


def ids(lines: list[dict[str, Any]], field: str = "request_id") -> set[Any]:
    return {one[field] for one in lines}


def test_each_line_gets_its_feed_in_order_and_a_bad_one_says_what_is_wrong(client: httpx.Client) -> None:
    lines = [
        handle_of(0),
        "",
        json.dumps(handle_of(1)),
        json.dumps({"user": handle_of(2), "size": 2, "filters": {"experience": 1}}),
        json.dumps({"user": handle_of(3), "size": 0, "colour": 1}),
        "{broken",
        json.dumps({"size": 3}),
        "nobody-we-know",
    ]
    found = batch(client, "\r\n".join(lines), size=4)

    assert [one["line"] for one in found] == [1, 3, 4, 5, 6, 7, 8]
    assert [one["user"] for one in found] == [handle_of(place) for place in range(4)] + [None, None, "nobody-we-know"]
    assert [len(one["ids"]) for one in found if "ids" in one] == [4, 4, 2, 4]
    assert all((years_of(int(one.split("-")[1])) or 0) <= 1 for one in found[2]["ids"])
    wrong = [{each["field"] for each in one["error"]["details"]} for one in found[3:6]]
    assert wrong == [{"colour", "size"}, set(), {"user"}]
    assert found[4]["error"]["code"] == "not_json"
    assert len({one["request_id"] for one in found if "ids" in one}) == 4


def test_nothing_of_a_batch_stays_unless_it_is_shown(client: httpx.Client, board: Settings) -> None:
    users = [handle_of(place) for place in range(20, 45)]
    before = batch(client, "\n".join(users), size=5)
    shown = batch(client, "\n".join(users), size=5, record="true")
    after = batch(client, "\n".join(users), size=5)

    assert [one["user"] for one in before] == [one["user"] for one in shown] == users
    assert ids(shown) <= recorded(board)
    assert not ids(before + after) & recorded(board)
    for one, later in zip(shown, after, strict=True):  # what a mail showed does not come again
        assert not set(one["ids"]) & set(later["ids"])


def test_a_batch_is_for_administrators_and_bounded(client: httpx.Client) -> None:
    assert client.post("/api/feeds/home/batch", content="a").status_code == 401
    wrong = client.post("/api/feeds/home/batch", content="a", headers={"Authorization": "Bearer x"})
    assert wrong.status_code == 403
    assert "has 0" in batch(client, "\n \n", 422)[0]["error"]["details"][0]["problem"]
    assert "has 10001" in batch(client, "a\n" * 10_001, 422)[0]["error"]["details"][0]["problem"]
    problems = batch(client, "a", 422, record="yes", size="many", sise=1)[0]["error"]["details"]
    assert {one["field"] for one in problems} == {"record", "size", "sise"}
    answer = client.post("/api/feeds/hoem/batch", content="a", headers=ADMINISTRATOR)
    assert answer.status_code == 404
    packed = gzip.compress(handle_of(4).encode())
    headers = ADMINISTRATOR | {"Content-Encoding": "gzip", "Content-Type": "application/x-ndjson"}
    assert client.post("/api/feeds/home/batch", content=packed, headers=headers).json()["user"] == handle_of(4)


def test_a_worker_makes_one_batch_at_a_time_and_answers_others_meanwhile(client: httpx.Client) -> None:
    many = "\n".join(handle_of(place % 60) for place in range(10_000))
    asked = {"content": many, "headers": ADMINISTRATOR, "params": {"size": 100}}
    with client.stream("POST", "/api/feeds/home/batch", **asked) as first:
        lines = first.iter_lines()
        assert json.loads(next(lines))["line"] == 1
        assert client.post("/api/feeds/home/batch", content="a", headers=ADMINISTRATOR).status_code == 429
        assert client.post("/api/feeds/home", json={"user": handle_of(50)}).status_code == 200
    # Whoever leaves ends it.
    free = wait_until(
        lambda: client.post("/api/feeds/home/batch", content="a", headers=ADMINISTRATOR).status_code == 200,
        PATIENCE_SECONDS,
    )
    assert free


def test_the_command_has_a_service_show_feeds_and_makes_others_here_without_what_was_shown(
    run: Run, board: Settings, apart: Apart, tmp_path: Path
) -> None:
    users = [handle_of(place) for place in range(50, 58)]
    done = run("--users", "-", "--size", "4", "--record", "--json", text="\n\n".join(users) + "\nx" * 2)
    assert done.exit_code == 0, done.stderr
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["line"] for one in shown] == [1, 3, 5, 7, 9, 11, 13, 15, 16, 17]
    assert [len(one["ids"]) for one in shown] == [4] * 10
    before = recorded(board)
    assert ids(shown) <= before

    file = tmp_path / "due.txt"
    file.write_text("\n".join([*users, '{"user": 5}', json.dumps({"user": handle_of(8), "size": 2})]))
    here = apart("--users", str(file), "--size", "20")
    lines = [line.split("\t") for line in here.stdout.splitlines()]

    assert [line[0] for line in lines] == [*users, handle_of(8)], here.stderr
    assert [len(line[1].split(",")) for line in lines] == [20] * 8 + [2]
    for one, (_, later) in zip(shown, lines[:8], strict=False):
        assert not set(one["ids"]) & set(later.split(","))
    assert "line 9: user must be text" in here.stderr
    assert "9 feeds, 1 bad line" in here.stderr
    assert here.returncode == 1
    assert recorded(board) == before


def test_the_command_says_what_does_not_go_together(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "USER, --missing cannot" in run("7", "--users", "-", "--missing", "job:1").stderr.replace("\n", " ")
    assert "'shop' is not one of home" in run("--users", "-", "--endpoint", "shop").stderr
    assert "goes with --record" in run("--users", "-", "--url", "http://127.0.0.1:1").stderr
    assert "name a user, or a file" in run().stderr
    monkeypatch.setenv("ADMIN_TOKEN", "another-token-of-some-length")
    refused = run("--users", "-", "--record", text="a")
    assert "answered 403: The token is not valid." in str(refused.exception)
    broken = run("--users", "-", "--record", "--url", "http://127.0.0.1:9", text="a")
    assert "broke off at line 1" in str(broken.exception)
    assert "http://h:abc is no address" in run("--users", "-", "--record", "--url", "http://h:abc", text="a").stderr


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, "<html>\n", "answers 200, and no feeds"),
        (200, '{"line": 9}\n', "answers 200, and no feeds"),
        (200, "[1]\n", "answers 200, and no feeds"),
        (404, '{"error": {"message": "no"}}', "answered 404: that is no error of this service"),
        (404, '{"error": "no"}', "answered 404: that is no error of this service"),
        (502, "<html>", "broke off at line 1"),
    ],
)
def test_what_is_another_service_is_told(run: Run, status: int, body: str, said: str) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_arguments: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{other.server_port}"
            refused = run("--users", "-", "--record", "--url", url, text=handle_of(1))
        finally:
            other.shutdown()
            thread.join()
    assert isinstance(refused.exception, SourceError), refused.exception
    assert said in str(refused.exception)


def test_a_feed_that_the_served_policy_has_not_is_told(
    run: Run, board: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mapping got another feed, and the policy that was published before has it not."""
    assert isinstance(board.mapping_file, Path)
    shutil.copytree(board.catalog_dir, tmp_path / "data" / "catalogs")
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    store = PolicyStore(tmp_path / "data" / "policies", 3)
    store.publish(begun_with(board), None, Deed(datetime(2026, 1, 1, tzinfo=UTC), "ana", "to have one"))
    other = tmp_path / "mapping.toml"
    kinds = "".join(f"[kinds.{name}]\nweights = {{ popularity = 1 }}\n" for name in ("for_you", "popular", "new"))
    feeds = '[feeds.home]\npattern = ["for_you"]\n[feeds.mails]\npattern = ["popular", "new"]\n'
    other.write_text(f"{board.mapping_file.read_text()}\n{kinds}{feeds}")
    monkeypatch.setenv("MAPPING_FILE", str(other))
    assert run("--users", "-", "--size", "2", text=handle_of(1)).exit_code == 0
    for arguments in (("--users", "-"), (handle_of(1),)):
        refused = run(*arguments, "--endpoint", "mails", text=handle_of(1))
        assert isinstance(refused.exception, PolicyError)
        assert "has no feed mails; its feeds are home" in str(refused.exception)


def test_reasons_are_in_the_language_that_is_asked_for(run: Run, apart: Apart) -> None:
    """A line asks for them as the body of a feed's request does."""
    line = json.dumps({"user": handle_of(9), "size": 1, "explain": True})
    for made in (
        run("--users", "-", "--json", "--record", "--lang", "es", text=line),
        apart("--users", "-", "--json", "--lang", "es", text=line),
    ):
        [sentences] = [item["why"]["sentences"] for item in json.loads(made.stdout)["items"]]
        texts = [one["text"] for one in sentences]
        in_each = {each: [say(each, one["code"], **one["values"]).text for one in sentences] for each in ("en", "es")}
        assert texts == in_each["es"] != in_each["en"]


def test_while_an_experiment_runs_each_is_shown_what_the_users_arm_would_make(
    run: Run, board: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here, without `--record`, and for one user; the arm is told by what it draws from."""
    shutil.copytree(board.catalog_dir, tmp_path / "data" / "catalogs")
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    store, deed = PolicyStore(tmp_path / "data" / "policies", 3), Deed(datetime.now(UTC), "ana", "to compare")
    control = begun_with(board)
    fresh = re.sub(rb'(?m)^"home" = .*$', b'"home" = ["new", "new"]', control).replace(b'"mapping-1"', b'"fresh"')
    store.publish(control, None, deed)
    version = store.publish(fresh, None, deed, aside=True)
    arms = [Arm("control", "current", 0.5), Arm("fresh", version, 0.5)]
    experiment = start_experiment(store, "fresher", arms, deed, salt=None, expect=None, until_now=control)
    users = [handle_of(place) for place in range(40)]
    place_of = Assignment(experiment.salt, experiment.shares).of
    in_fresh = [place_of(number_of_text(user, USER_BITS), 0, "") == 1 for user in users]
    assert 5 < sum(in_fresh) < 35

    lines = "\n".join(json.dumps({"user": user, "size": 3, "explain": True}) for user in users)
    made = [json.loads(line) for line in run("--users", "-", "--json", text=lines).stdout.splitlines()]
    assert [{item["why"]["slot"] for item in one["items"]} == {"new"} for one in made] == in_fresh
    one, other = in_fresh.index(True), in_fresh.index(False)
    assert "in arm fresher:fresh," in " ".join(run(users[one]).output.split())
    assert "in arm fresher:control," in " ".join(run(users[other]).output.split())
    shown = json.loads(run(users[one], "--policy", store.current() or "", "--json").stdout)
    assert {item["why"]["slot"] for item in shown["items"]} > {"new"}, "a policy that is named is what is tried"
    for nobody in ("", ', "personal": false'):
        line = json.dumps({"user": users[one], "size": 3, "explain": True})[:-1] + nobody + "}"
        [feed] = [json.loads(each) for each in run("--users", "-", "--json", text=line).stdout.splitlines()]
        assert ({item["why"]["slot"] for item in feed["items"]} == {"new"}) == (not nobody)
