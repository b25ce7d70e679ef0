"""A preview is what the user would get, and leaves nothing behind."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.experiments.assignment import Assignment
from recommendation_service.mappings.interacpedia.user_reader import UserReader
from recommendation_service.mappings.shipped import STARTING_POLICY
from recommendation_service.policies.experiment import Arm
from recommendation_service.policies.experiments import start_experiment, stop_experiment
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.store import PolicyStore
from recommendation_service.ranking.seen import session_number
from tests.end_to_end.in_process import logs_left_alone, make_app, served
from tests.end_to_end.service import PATIENCE_SECONDS
from tests.servers import wait_until
from tests.support.http_contract import ask, body_of, error_of

DEED = Deed(datetime(2026, 1, 1, tzinfo=UTC), "somebody", "to try it")
ADMINISTRATOR = {"Authorization": "Bearer preview-token"}
# What is counted of the calls themselves and of the machine.
OF_ANY_CALL = re.compile(r"recs_requests?_|recs_process|recs_cpu|process_|python_|recs_connections|recs_clock")


def other_policy() -> bytes:
    """The policy that ships, with one kind for all slots of discover."""
    shipped = STARTING_POLICY.read_text("utf-8")
    return re.sub(r"(?m)^discover = .*$", 'discover = ["NU"]', shipped).encode()


@pytest.fixture(scope="module")
def folder(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATA_DIR of its own: one process opens the memory of users once, and a policy is published here."""
    folder = tmp_path_factory.mktemp("preview") / "data"
    folder.mkdir()
    shutil.copytree(data_dir / "catalogs", folder / "catalogs")
    shutil.copy(data_dir / "interacpedia.sqlite", folder)
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    app = make_app(folder, admin_token="preview-token", feed_seed=7, event_flusher=False)
    with logs_left_alone(), served(app) as client:
        yield client


def previewed(client: httpx.Client, user: int, **parameters: Any) -> dict[str, Any]:
    answer = client.get(f"/api/users/{user}/preview", params=parameters, headers=ADMINISTRATOR)
    return body_of(answer, 200)


def left_behind(client: httpx.Client, folder: Path, user: int) -> set[str]:
    """What metrics count, what the log has, and what is remembered of the user.

    Gauges are no part of it: connections come and go, and a clock goes on, whoever asks for what.
    """
    families = text_string_to_metric_families(client.get("/metrics").text)
    counted = [family for family in families if family.type in ("counter", "histogram", "summary")]
    samples = (sample for family in counted for sample in family.samples if not sample.name.endswith("_created"))
    metrics = {f"{one.name}{one.labels} {one.value}" for one in samples if not OF_ANY_CALL.match(one.name)}
    assert metrics, "there is something that feeds count"
    log = {f"{path}: {hash(path.read_bytes())}" for path in (folder / "events").glob("*.segment")}
    return metrics | log | {f"remembered: {previewed(client, user)['remembered_items']}"}


def items_of(feed: dict[str, Any]) -> set[tuple[str, int]]:
    return {(item["type"], item["id"]) for item in feed["items"]}


def test_a_preview_records_remembers_and_counts_nothing(client: httpx.Client, folder: Path, user: int) -> None:
    shown = items_of(ask(client, "total", SELF_ID=user, N_VIDEOS=20))
    before = left_behind(client, folder, user)
    feeds = [
        previewed(client, user, size=20),
        previewed(client, user, size=20),
        previewed(client, 0, endpoint="discover", session_id="a session"),
    ]
    assert left_behind(client, folder, user) ^ before == set()
    ask(client, "total", SELF_ID=user)
    found = left_behind(client, folder, user) - before
    assert any(line.startswith("remembered") for line in found)
    assert any(".segment: " in line for line in found)
    for body in feeds[:2]:
        assert body["remembered_items"] >= 20
        assert items_of(body["feed"]).isdisjoint(shown), "what was shown stays away from it, as from a feed"
        assert all(item["why"]["propensity"] > 0 for item in body["feed"]["items"])
    assert feeds[0]["feed"]["mix_ids"] != feeds[1]["feed"]["mix_ids"], "each is drawn anew"
    assert len(feeds[2]["feed"]["resume_ids"]) == 24


def test_a_preview_with_the_request_id_of_a_feed_is_that_feed(client: httpx.Client) -> None:
    feed = ask(client, "flow", N_VIDEOS=12)
    body = previewed(client, 0, endpoint="flow", size=12, request_id=feed["request_id"])
    assert body["feed"]["challenge_ids"] == feed["challenge_ids"]
    assert body["feed"]["request_id"] == feed["request_id"]
    assert body["catalog"] == client.get("/ready").json()["catalog"]


def test_of_a_user_who_is_not_in_the_catalog_the_tables_are_asked(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(UserReader, "read", lambda _, user: asked.append(user))
    assert len(previewed(client, 2**40)["feed"]["items"]) == 24
    assert previewed(client, 0)["user_id"] == 0
    assert asked == [2**40]


def test_a_policy_version_that_is_only_kept_is_tried(client: httpx.Client, folder: Path) -> None:
    version = PolicyStore(folder / "policies", 3).publish(other_policy(), None, DEED, aside=True)
    body = previewed(client, 0, endpoint="discover", policy=version)
    assert body["policy"] == version
    assert {item["why"]["slot"] for item in body["feed"]["items"]} == {"NU"}
    assert previewed(client, 0)["policy"] != version
    assert body["fits"]
    heavier = re.sub(rb"(?m)^engagement = 2.2$", b"engagement = 3.3", other_policy())
    version = PolicyStore(folder / "policies", 3).publish(heavier, None, DEED, aside=True)
    assert not previewed(client, 0, policy=version)["fits"], "its pools are another policy's until a build"
    answer = client.get("/api/users/0/preview", params={"policy": "none-such"}, headers=ADMINISTRATOR)
    assert "none-such does not exist" in error_of(answer, 404, "not_found")["message"]


def test_while_an_experiment_runs_a_preview_is_made_by_the_persons_arm(client: httpx.Client, folder: Path) -> None:
    store = PolicyStore(folder / "policies", 5)
    control = store.publish(STARTING_POLICY.read_bytes(), None, DEED)
    fresh = store.publish(other_policy(), None, DEED, aside=True)
    arms = [Arm("control", control, 0.5), Arm("fresh", fresh, 0.5)]
    until_now = STARTING_POLICY.read_bytes()
    experiment = start_experiment(store, "fresher", arms, DEED, salt=None, expect=None, until_now=until_now)
    place_of = Assignment(experiment.salt, experiment.shares).of
    people: list[tuple[int, str | None]] = [
        *((user, None) for user in range(1, 25)),
        *((0, f"tab {n}") for n in range(16)),
    ]
    expected = [(control, fresh)[place_of(user, session_number(session), "")] for user, session in people]
    assert 8 < expected.count(fresh) < 32

    def made_for(user: int, session: str | None, **more: Any) -> dict[str, Any]:
        of_session = {"session_id": session} if session is not None else {}
        return previewed(client, user, endpoint="discover", size=6, **of_session, **more)

    first = expected.index(fresh)
    assert wait_until(lambda: made_for(*people[first])["policy"] == fresh, PATIENCE_SECONDS)
    made = [made_for(*person) for person in people]
    assert [one["policy"] for one in made] == expected
    drawn = [{item["why"]["slot"] for item in one["feed"]["items"]} == {"NU"} for one in made]
    assert drawn == [one == fresh for one in expected], "it is the arm's, and does not only say so"
    assert made_for(*people[first], policy=control)["policy"] == control, "a policy that is named is what is tried"
    assert made_for(*people[first], personal=False)["policy"] == control, "nobody's feed is of no arm"
    stop_experiment(store, "fresher", DEED)
    assert wait_until(lambda: made_for(*people[first])["policy"] == control, PATIENCE_SECONDS)


@pytest.mark.parametrize(
    "parameters", [{"endpoint": "all"}, {"size": 0}, {"size": 101}, {"request_id": "a b"}], ids=str
)
def test_what_is_no_preview_is_refused(client: httpx.Client, parameters: dict[str, Any]) -> None:
    answer = client.get("/api/users/1/preview", params=parameters, headers=ADMINISTRATOR)
    assert [detail["field"] for detail in error_of(answer, 422, "invalid_request")["details"]] == list(parameters)


def test_a_preview_is_for_administrators(client: httpx.Client) -> None:
    error_of(client.get("/api/users/1/preview"), 401, "unauthorized")
    error_of(client.get("/api/users/1/preview", headers={"Authorization": "Bearer another"}), 403, "forbidden")


def test_a_policy_file_is_tried_by_the_command(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(data_dir))
    other, wrong = tmp_path / "other.toml", tmp_path / "wrong.toml"
    other.write_bytes(other_policy())
    wrong.write_text("version = 1", "utf-8")
    configured = structlog.get_config()
    try:
        made = CliRunner().invoke(cli.app, ["feed", "0", "--endpoint", "discover", "--policy", str(other), "--json"])
        assert made.exit_code == 0, made.output
        assert {item["why"]["slot"] for item in json.loads(made.stdout)["body"]["items"]} == {"NU"}
        refused = CliRunner().invoke(cli.app, ["feed", "0", "--policy", str(wrong)])
        assert refused.exit_code != 0
        assert str(wrong) in str(refused.exception)
    finally:
        structlog.configure(**configured)
