"""`recs evaluate off-policy` on what a running service recorded: by shadows, by decisions, and what it refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
from typer.testing import CliRunner, Result

from recommendation_service import cli
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import SourceError
from recommendation_service.editors.rulings import Ruling
from recommendation_service.editors.store import RulingsStore
from recommendation_service.feed.compilation import compile_apart
from recommendation_service.log.decisions import DecisionRecord, DecisionWriter, read_decisions
from recommendation_service.mappings.interacpedia.words import RESUME
from recommendation_service.model.item_keys import item_key
from recommendation_service.policies.evidence import OPEN, EvidenceFiles
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.policy import read_policy_file
from recommendation_service.policies.store import PolicyStore
from tests.end_to_end.in_process import logs_left_alone, make_app, publish_catalog, served
from tests.end_to_end.service import load_demo, recs
from tests.support.decision_logs import loss_by_vowpal_wabbit

USERS = range(11, 161)
ENDPOINT = "total"
PINNED_ITEM = 40
# After all that the test records, and what waits to be rewarded.
LATER = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S")


class Place(NamedTuple):
    folder: Path
    same: str  # a version with the served policy's arrays
    bold: str  # one that differs in its widths
    saves: int  # of items that were shown


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[httpx.Client]:
    with logs_left_alone():
        app = make_app(folder / "data", event_flusher=False, **settings)
        with served(app) as client:
            yield client


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """150 feeds of 6 with two shadows and a decision each; half of the users save the first item, and say so in one of
    two ways, and the others what an editor pinned to the third place; one is asked for with explain."""
    compile_apart(lambda *_: None)
    folder = tmp_path_factory.mktemp("off-policy")
    load_demo(folder)
    publish_catalog(Settings(data_dir=folder / "data"))
    _pin(folder / "data")
    store, deed = PolicyStore(folder / "data" / "policies", keep=10), Deed(datetime.now(UTC), "ana@desk", "to see")
    same = store.publish(read_policy_file(), None, deed, aside=True)
    bold = store.publish(read_policy_file().replace(b"alpha = 1.5", b"alpha = 1.4"), None, deed, aside=True)
    store.shadow([same, bold], deed)
    saves = 0
    with serving(folder, decision_share=1) as client:
        for user in USERS:
            body = client.post(f"/api/search/{ENDPOINT}", json={"SELF_ID": user, "N_VIDEOS": 6}).json()["body"]
            saved = 0 if user % 2 else 2
            item = body["items"][saved]
            saves += saved == 0
            if saved == 0 or item["id"] == PINNED_ITEM:
                event = {
                    "event_id": f"save-{user}",
                    "event": "save",
                    "user_id": user,
                    "item_type": item.get("type", "resume"),
                    "item_id": int(body["mix_ids"][saved]),
                    **({"request_id": body["request_id"]} if user % 4 < 2 else {}),
                }
                answer = client.post("/api/feedback", json=[event, {**event, "event_id": f"again-{user}"}])
                assert answer.status_code == 202, answer.text
        client.post(f"/api/search/{ENDPOINT}", json={"SELF_ID": 7, "N_VIDEOS": 6, "explain": True})
    assert recs("events", "flush", folder=folder).returncode == 0
    store.shadow([], deed)
    return Place(folder, same, bold, saves)


def _pin(data_dir: Path) -> None:
    until = time.time() + 86_400
    key = item_key(RESUME, PINNED_ITEM)
    pin = Ruling("pin", "resume", PINNED_ITEM, key, "ana", "to see", time.time(), ENDPOINT, 3, until)
    RulingsStore(data_dir / "editors").rule(pin)


def here(place: Place, *arguments: str) -> Result:
    """In this process, which saves the start of another."""
    with logs_left_alone():
        settings = {"DATA_DIR": str(place.folder / "data"), "COLUMNS": "300"}
        return CliRunner().invoke(cli.app, ("evaluate", "off-policy", *arguments), env=settings)


def weighed(place: Place, *arguments: str) -> dict[str, Any]:
    done = here(place, "--until", LATER, "--json", *arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_shadow_with_the_served_arrays_differs_by_nothing(place: Place) -> None:
    found = weighed(place, "--policy", place.same)
    assert (found["by"], found["feeds"], found["users"]) == ("shadow", len(USERS) + 1, len(USERS) + 1)
    assert found["logged"] == pytest.approx(
        0.6 * place.saves / found["feeds"]
    )  # a save is worth .6, said once or twice
    assert found["estimate"]["difference"] == pytest.approx(0.0, abs=1e-9)
    assert found["effective_sample_size"] == pytest.approx([found["feeds"]] * 6)
    assert found["verdict"] == "not told apart"


def test_decisions_say_what_shadows_say_of_the_feeds_that_chance_chose(place: Place) -> None:
    shadow = weighed(place, "--policy", place.bold)
    decisions = weighed(place, "--policy", place.bold, "--decisions", str(place.folder / "data" / "decisions"))
    assert (decisions["by"], decisions["feeds"]) == ("decisions", shadow["feeds"])
    for name in ("estimate", "guardrail", "whole_feed", "single"):
        assert decisions[name] == pytest.approx(shadow[name], abs=2e-3), name
    assert decisions["estimate"]["difference"] != 0.0
    assert decisions["doubly_robust"]["value"] == pytest.approx(decisions["estimate"]["value"], rel=0.1)
    assert "doubly_robust" not in shadow


def test_a_policy_file_is_weighed_by_decisions_and_each_look_is_kept(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "bolder.toml"
    file.write_bytes(read_policy_file().replace(b"alpha = 1.", b"alpha = 1.05"))
    evidence = EvidenceFiles(place.folder / "data" / "policies")
    version = weighed(place, "--policy", str(file), "--slots", "3")["policy"]
    (look,) = evidence.of(version)
    assert look.verdict == OPEN
    assert look.words.endswith("By decisions.")
    assert look.feeds > 0
    weighed(place, "--policy", str(file), "--endpoint", ENDPOINT)
    assert len(evidence.of(version)) == 2


def test_decisions_of_another_release_are_counted_and_weigh_nothing(place: Place, tmp_path: Path) -> None:
    """Some whose form has another name, and some whose pools this release cannot take apart."""
    records = [record for record in read_decisions(place.folder / "data" / "decisions") if record.drawn]
    writer = DecisionWriter(tmp_path, 1 << 30, time.time)
    for number, record in enumerate(records):
        packed = record.packed[: len(record.packed) // 2] if number % 10 == 0 else record.packed
        writer.append(msgspec.structs.replace(record, packed=packed))
    for record in records[:7]:
        writer.append(_Later(*msgspec.structs.astuple(record)))
    writer.close()
    found = weighed(place, "--policy", place.bold, "--decisions", str(tmp_path))
    cut = -(-len(records) // 10)
    assert found["left_out"] == {"of another release": cut + 7}
    assert found["feeds"] == len(records) - cut
    done = _export(place, "--until", LATER, "--decisions", str(tmp_path), "--output", str(tmp_path / "out"))
    assert f"{cut + 7} are of another release" in done.stderr


class _Later(DecisionRecord, array_like=True, tag="decision9", frozen=True, gc=False):
    """A form that does not exist yet."""


def test_a_policy_of_other_pools_is_refused_with_the_reason_and_what_to_do(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "others.toml"
    file.write_bytes(read_policy_file().replace(b"pool = 220", b"pool = 200"))
    assert file.read_bytes() != read_policy_file()
    done = recs("evaluate", "off-policy", "--until", LATER, "--policy", str(file), folder=place.folder)
    assert done.returncode == 1
    assert "draws from other pools" in done.stderr
    assert "recs policy shadow" in done.stderr
    assert "Traceback" not in done.stderr


def test_people_read_the_verdict(place: Place) -> None:
    told = here(place, "--until", LATER, "--policy", place.same).stdout
    assert "Not told apart from what was logged" in told
    assert "each slot's ratio alone (biased)" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--policy", "20200101T000000.000000Z-0000000000000000"), "was a shadow of no feed"),
        (("--policy", "SAME", "--until", "2020-01-01"), "Nothing weighs"),
        (("--policy", "SAME", "--until", LATER, "--endpoint", "nowhere"), "there is total"),
    ],
)
def test_where_there_is_no_evidence_a_sentence_says_so(place: Place, arguments: tuple[str, ...], said: str) -> None:
    found = here(place, *(place.same if each == "SAME" else each for each in arguments))
    assert isinstance(found.exception, SourceError)
    assert said in str(found.exception)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say which policy to weigh"),
        (("--policy", "a", "--policy", "b"), "one policy is weighed at a time"),
        (("--policy", "a", "--form", "ccb"), "is of a log, which --log names"),
        (("--log", "x.dsjson", "--slots", "3"), "and --log names another"),
    ],
)
def test_what_is_asked_wrongly_is_told_in_a_sentence(place: Place, arguments: tuple[str, ...], said: str) -> None:
    done = here(place, *arguments)
    assert done.exit_code == 2
    assert said in done.stderr


def _export(place: Place, *arguments: str) -> Result:
    with logs_left_alone():
        return CliRunner().invoke(
            cli.app, ("evaluate", "export", *arguments), env={"DATA_DIR": str(place.folder / "data")}
        )


def test_decisions_that_are_exported_are_weighed_alike_by_vowpal_wabbit_and_here(place: Place, tmp_path: Path) -> None:
    ours = tmp_path / "ours.dsjson"
    done = _export(place, "--until", LATER, "--endpoint", ENDPOINT, "--output", str(ours))
    assert done.exit_code == 0, done.output
    drawn = len(USERS) + 1
    assert done.stderr.endswith(f"{drawn:,} decisions in {ours}\n")
    tags = [one["_tag"] for line in ours.read_text("utf-8").splitlines() for one in _shown(json.loads(line))]
    assert 4 * drawn < len(tags) < 6 * drawn, "what is pinned is no decision"
    assert tags.count(f"resume:{PINNED_ITEM}") < drawn // 4
    log = here(place, "--log", str(ours), "--policy", "even", "--policy", "mix:0", "--json")
    even, as_logged = json.loads(log.stdout)["policies"]
    assert as_logged["ips"] == pytest.approx(weighed(place, "--policy", place.same)["logged"])
    own, weight = loss_by_vowpal_wabbit(ours, "--ccb_explore_adf --epsilon 1.0 --all_slots_loss")
    assert weight == drawn
    assert even["own_ratio"] == pytest.approx(-own, rel=1e-4)


def _shown(decision: dict[str, Any]) -> list[dict[str, Any]]:
    """What was in the slots."""
    actions = decision["c"]["_multi"]
    return [actions[slot["_a"][0]] for slot in decision["_outcomes"]]


def test_decisions_of_no_feed_are_counted_and_standard_output_has_the_lines(place: Place) -> None:
    none = _export(place, "--until", "2020-01-01")
    assert (none.exit_code, none.stdout) == (0, "")
    assert "are of feeds that are not in the database, or not of these days" in none.stderr
    assert len(_export(place, "--until", LATER).stdout.splitlines()) == len(USERS) + 1
    nowhere = _export(place, "--until", LATER, "--endpoint", "nowhere")
    assert isinstance(nowhere.exception, SourceError)
    assert "there is total" in str(nowhere.exception)
