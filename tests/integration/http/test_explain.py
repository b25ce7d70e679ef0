"""Why a feed was as it was, asked of the running application: equal to what was served, and of each item that was not
shown the stage at which it fell."""

from __future__ import annotations

import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import numpy as np
import pytest
import structlog
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.missing import odds_of
from recommendation_service.log import decisions as decision_log
from recommendation_service.log.decisions import find_decision, read_decisions
from recommendation_service.mappings.shipped import STARTING_POLICY
from recommendation_service.model.kinds import KINDS
from recommendation_service.model.words import FIRST_WORDS
from recommendation_service.policies.policy import load_policy
from recommendation_service.ranking.decisions import recorded_propensities, unpack_decision
from recommendation_service.serving import decisions as serving_decisions
from recommendation_service.serving.explanation import Explanation, Recorded, Versions
from tests.end_to_end.in_process import logs_left_alone, make_app, publish_catalog, served
from tests.end_to_end.service import PATIENCE_SECONDS
from tests.servers import wait_until
from tests.support.http_contract import ask, body_of, error_of

TOKEN = "explain-token"
ADMINISTRATOR = {"Authorization": f"Bearer {TOKEN}"}
BAD = "https://media.example/bad.mp4"
# What the tests do to rows that could be shown, and the rule that each breaks.
SPOILED = {
    "unpublished": "status = 'draft'",
    "deleted": "deleted_at = created_at",
    "too_old": "created_at = '2001-01-01 00:00:00'",
    "no_time": "created_at = '2099-01-01 00:00:00'",
    "no_video": "video = ' '",
    "blacklisted": f"video = '{BAD}'",
    "test_row": "description = 'xyzzy'",
    "unknown_creator": "user_id = 987654321",
}


class Place(NamedTuple):
    folder: Path
    catalog: Catalog
    spoiled: dict[str, int]  # by rule


@pytest.fixture(scope="module")
def place(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("explain") / "data"
    folder.mkdir()
    shutil.copy(data_dir / "interacpedia.sqlite", folder)
    store = CatalogStore(data_dir / "catalogs", keep=1)
    before = store.open(store.current() or "")
    videos = before.arrays.item_id[: videos_in(before)][::-1][: len(SPOILED)].tolist()
    spoiled = dict(zip(SPOILED, videos, strict=True))
    with closing(sqlite3.connect(folder / "interacpedia.sqlite")) as database, database:
        for rule, change in SPOILED.items():
            database.execute(f"UPDATE resumes SET {change} WHERE id = ?", (spoiled[rule],))
    (folder / "blacklist.txt").write_text(f"{BAD}\n")
    publish_catalog(settings_of(folder))
    return Place(folder, open_current(folder), spoiled)


def videos_in(catalog: Catalog) -> int:
    return catalog.rows_of_type["resume"][1]


def settings_of(folder: Path) -> Settings:
    """With pools so small that most items are in none."""
    policy = folder / "small-pools.toml"
    shipped = STARTING_POLICY.read_text("utf-8")
    policy.write_text(re.sub(r"(?m)^pool = .*$", "pool = 12", shipped), "utf-8")
    return Settings(data_dir=folder, test_row_words=("xyzzy",), policy_file=policy)


def open_current(folder: Path) -> Catalog:
    store = CatalogStore(folder / "catalogs", keep=3)
    return store.open(store.current() or "")


@pytest.fixture(scope="module")
def client(place: Place) -> Iterator[httpx.Client]:
    policy = place.folder / "small-pools.toml"
    app = make_app(
        place.folder, policy_file=policy, admin_token=TOKEN, event_flusher=False, decision_share=0, feed_seed=5
    )
    with logs_left_alone(), pytest.MonkeyPatch.context() as patch, served(app) as client:
        # Feeds until one is recorded would leave a person of this small catalog nothing that is new.
        patch.setattr(serving_decisions, "EXPLAINED_EVERY_SECONDS", 0.0)
        yield client


@pytest.fixture
def user(place: Place) -> int:
    histories = np.diff(place.catalog.arrays.history_offsets)
    return int(place.catalog.arrays.user_id[int(np.argmax(histories))])


def answer_of(client: httpx.Client, request_id: str, **parameters: Any) -> httpx.Response:
    """However often it is asked: what comes too early is asked again."""
    while True:
        answer = client.get(f"/api/explain/{request_id}", params=parameters, headers=ADMINISTRATOR)
        if answer.status_code != 429:
            return answer


def explained(client: httpx.Client, request_id: str, **parameters: Any) -> dict[str, Any]:
    return body_of(answer_of(client, request_id, **parameters), 200)


def missing(client: httpx.Client, request_id: str, *items: str, **parameters: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = explained(client, request_id, missing=list(items), **parameters)["missing"]
    assert [f"{one['type']}:{one['id']}" for one in found] == list(items)
    return found


def codes(one: dict[str, Any]) -> list[str]:
    return [sentence["code"] for sentence in one["sentences"]]


def decided(client: httpx.Client, folder: Path, **fields: Any) -> dict[str, Any]:
    """A feed whose decision is recorded."""
    feed = ask(client, explain=True, **fields)
    assert find_decision(folder / "decisions", bytes.fromhex(feed["request_id"])) is not None
    return feed


def names_of(feed: dict[str, Any]) -> list[str]:
    return [f"{item['type']}:{item['id']}" for item in feed["items"]]


def test_a_feed_with_a_decision_is_explained_as_it_was_served(client: httpx.Client, place: Place, user: int) -> None:
    feed = decided(client, place.folder, SELF_ID=user)
    body = explained(client, feed["request_id"])
    assert body["decision"] == {"recorded": True, "refused": ""}
    assert set(body["origins"].values()) == {"recorded", "recomputed"}
    assert names_of(body) == names_of(feed)
    for now, then in zip(body["items"], feed["items"], strict=True):
        why, was = now["why"], then["why"]
        assert why["propensity"] == pytest.approx(was["propensity"], rel=0, abs=1e-9)
        for name in ("position", "slot", "pool", "relaxed"):
            assert why[name] == was[name]
        for name in ("score", "expected", "bonus", "width"):
            assert why[name] == pytest.approx(was[name], rel=1e-4)
        for name in ("features", "contributions", "terms"):
            assert why[name] == pytest.approx(was[name], rel=1e-4, abs=1e-4)
        assert sum(why["contributions"].values()) == pytest.approx(why["expected"], rel=1e-9)
        assert [one["code"] for one in why["sentences"]] == [one["code"] for one in was["sentences"]]
        assert why["sentences"][0]["values"].get("slot", why["slot"]) == why["slot"]


def test_the_odds_of_all_that_a_place_could_hold_are_one(client: httpx.Client, place: Place, user: int) -> None:
    feed = decided(client, place.folder, SELF_ID=user, N_VIDEOS=12)
    (record,) = [
        one for one in read_decisions(place.folder / "decisions") if one.request_id.hex() == feed["request_id"]
    ]
    decision = unpack_decision(record.packed)
    from_weights = recorded_propensities(decision)
    for position, slot in enumerate(decision.slots):
        if slot.chosen < 0:
            continue
        pool = decision.pools[slot.pool]
        odds = [odds_of(slot, pool, int(member), decision.floor) for member in np.flatnonzero(slot.eligible)]
        assert sum(odds) == pytest.approx(1.0, rel=1e-9)
        assert odds_of(slot, pool, slot.chosen, decision.floor) == pytest.approx(from_weights[position], rel=1e-12)
    shown = {slot.item for slot in decision.slots}
    others = [int(key) for key in decision.items if int(key) not in shown][:20]
    names = [f"{('resume', 'challenge')[key & 1]}:{key >> 1}" for key in others]
    for one, key in zip(missing(client, feed["request_id"], *names), others, strict=True):
        assert (one["origin"], one["stage"] in ("in_pool", "barred")) == ("recorded", True)
        stay_away = 1.0
        for in_pool in one["pools"]:
            number = next(n for n, kind in enumerate(KINDS) if kind == in_pool["pool"])
            pool = decision.pools[number]
            (member,) = np.flatnonzero(decision.items[pool.members] == key)
            for there in in_pool["places"]:
                slot = decision.slots[there["position"]]
                assert bool(there["barred_by"]) != bool(slot.eligible[member])
                assert "limits" not in there["barred_by"], "the catalog of the feed tells which"
                stay_away *= 1 - there["odds"]
        assert one["odds"] == pytest.approx(1 - stay_away, abs=1e-12)


def test_of_a_feed_without_a_decision_the_record_tells_and_the_feed_is_made_again(
    client: httpx.Client, place: Place
) -> None:
    feed = ask(client, N_VIDEOS=12)
    body = explained(client, feed["request_id"])
    assert not body["decision"]["recorded"]
    assert names_of(body) == names_of(feed)
    wanted = names_of(feed)[3]
    videos = place.catalog.arrays.item_id[: videos_in(place.catalog)].tolist()
    other = next(name for name in (f"resume:{number}" for number in videos) if name not in names_of(feed))
    shown, absent = missing(client, feed["request_id"], wanted, other)
    assert (shown["stage"], shown["sentences"][0]["values"]) == ("shown", {"place": 4})
    assert absent["origin"] == "recomputed", "nothing is remembered of anonymous people, so it is the same feed"
    assert absent["stage"] in ("in_pool", "barred", "in_no_pool")
    excluding = ask(client, N_VIDEOS=12, EXCLUDED_IDS=[item["id"] for item in feed["items"]])
    (again,) = missing(client, excluding["request_id"], wanted)
    assert again["origin"] == "today", "what was excluded is not recorded, so it is not the same feed"


def test_every_rule_that_keeps_a_row_out_is_named(client: httpx.Client, place: Place) -> None:
    feed = ask(client)
    names = [f"resume:{number}" for number in place.spoiled.values()]
    for rule, one in zip(place.spoiled, missing(client, feed["request_id"], *names), strict=True):
        assert one["stage"] == "not_eligible"
        assert codes(one) == [f"not_eligible_{rule}"]
    (gone,) = missing(client, feed["request_id"], "resume:999999999")
    assert (gone["stage"], gone["origin"]) == ("not_in_tables", "today")
    with closing(sqlite3.connect(place.folder / "interacpedia.sqlite")) as database, database:
        database.execute("UPDATE resumes SET status = 'send' WHERE id = ?", (place.spoiled["unpublished"],))
    (later,) = missing(client, feed["request_id"], names[0])
    assert (later["stage"], codes(later)) == ("not_yet", ["eligible_now"])


@pytest.mark.parametrize("with_decision", [True, False])
def test_what_the_request_or_the_person_kept_out_is_named(
    client: httpx.Client, place: Place, with_decision: bool
) -> None:
    arrays = place.catalog.arrays
    row = int(np.argmax(np.diff(arrays.history_offsets)))
    person = int(arrays.user_id[row])
    history = arrays.history_items[arrays.history_offsets[row] : arrays.history_offsets[row + 1]].tolist()
    # Of one creator each, whom the other run of this test leaves alone.
    by_creator = {int(arrays.creator[item]): item for item in range(videos_in(place.catalog)) if item not in history}
    mine = list(by_creator.items())[5 * with_decision :][:5]
    hidden, viewed, impressed, excluded, of_hidden = (int(arrays.item_id[item]) for _, item in mine)
    creator = int(arrays.creator_id[mine[-1][0]])
    events = [("hide", "resume", hidden), ("view", "resume", viewed), ("impression", "resume", impressed)]
    events.append(("hide", "creator", creator))
    sent = [{"event": event, "user_id": person, "item_type": kind, "item_id": number} for event, kind, number in events]
    assert client.post("/api/feedback", json=sent).status_code == 202
    before = ask(client, SELF_ID=person, N_VIDEOS=12)
    if with_decision:
        feed = decided(client, place.folder, SELF_ID=person, EXCLUDED_IDS=[excluded], N_VIDEOS=2)
    else:
        now = time.time()
        assert wait_until(lambda: int(time.time()) > int(now), PATIENCE_SECONDS), (
            "of a feed's own second nothing is told"
        )
        feed = ask(client, SELF_ID=person, N_VIDEOS=6)
    # What was taken comes back in this small catalog, and then was shown.
    taken = next(item for item in history if f"resume:{arrays.item_id[item]}" not in names_of(feed))
    items = [hidden, viewed, impressed, of_hidden, int(arrays.item_id[taken])]
    found = missing(client, feed["request_id"], *(f"resume:{number}" for number in items))
    assert [codes(one) for one in found[:4]] == [["hidden"], ["seen_acted"], ["seen_impressed"], ["creator_hidden"]]
    assert found[4]["stage"] == "seen"
    assert [one["stage"] for one in found] == ["hidden", "seen", "seen", "hidden", "seen"]
    assert found[1]["sentences"][0]["values"].keys() == {"since", "until"}
    if with_decision:
        touched = {f"resume:{arrays.item_id[item]}" for item in [*list(by_creator.values())[:10], *history]}
        elsewhere = next(name for name in names_of(before) if name not in {*names_of(feed), *touched})
        served_before, out = missing(client, feed["request_id"], elsewhere, f"resume:{excluded}")
        assert codes(served_before) == ["seen_served"]
        assert (out["stage"], out["origin"]) == ("excluded", "recorded")
        assert {one["origin"] for one in found} == {"recorded"}
    else:
        assert {one["origin"] for one in found} <= {"recomputed", "today"}


def test_an_item_that_no_pool_had_is_told_why(client: httpx.Client, place: Place) -> None:
    feed = ask(client, "discover", N_VIDEOS=6)
    arrays = place.catalog.arrays
    (challenge,) = missing(client, feed["request_id"], f"challenge:{arrays.item_id[-1]}")
    assert (challenge["stage"], challenge["sentences"][0]["values"]) == ("wrong_type", {"endpoint": "discover"})
    told = set()
    candidates = [
        f"resume:{number}"
        for number in arrays.item_id[: videos_in(place.catalog)].tolist()
        if f"resume:{number}" not in names_of(feed)
    ]
    for start in range(0, len(candidates), 20):
        for one in missing(client, feed["request_id"], *candidates[start : start + 20]):
            told |= set(codes(one))
    assert told >= {"no_pool_outranked", "in_pool"}
    assert told & {"no_pool_gate", "no_pool_age"}
    assert told <= {
        "in_pool", "in_pool_barred", "in_pool_no_place", "barred_creator", "barred_skill", "explorable",
        "no_pool_outranked", "no_pool_gate", "no_pool_age",
    }  # fmt: skip


def test_the_language_is_asked_for_or_accepted(client: httpx.Client) -> None:
    spanish = {"Accept-Language": "es-CO,es;q=0.9,en;q=0.8"}
    answer = client.post("/api/search/total", json={"N_VIDEOS": 3, "explain": True}, headers=spanish)
    feed = answer.json()["body"]
    text = feed["items"][0]["why"]["sentences"][0]["text"]
    assert text.startswith(("Salió", "Se eligió"))
    english = explained(client, feed["request_id"])["items"][0]["why"]["sentences"][0]
    assert english["text"].startswith(("Drawn", "Picked"))
    answer = answer_of(client, feed["request_id"], lang="es")
    assert answer.headers["content-language"] == "es"
    assert answer.json()["body"]["items"][0]["why"]["sentences"][0]["code"] == english["code"]
    (one,) = missing(client, feed["request_id"], "resume:999999999", lang="es")
    assert one["sentences"][0]["text"] == "Las tablas no tienen esa fila."


@pytest.mark.parametrize(
    ("request_id", "parameters", "fields"),
    [
        ("no-number", {}, ["request_id"]),
        ("0" * 31, {}, ["request_id"]),
        (
            "0" * 32,
            {"missing": ["film:3", "resume:-3", "resume:0", "resume", "creator:3", "resume:" + "9" * 19]},
            [f"missing[{n}]" for n in range(6)],
        ),
        ("x", {"missing": ["resume:1e3"]}, ["request_id", "missing[0]"]),
        ("0" * 32, {"missing": ["resume:٣"]}, ["missing[0]"]),
        ("0" * 32, {"lang": "de"}, ["lang"]),
        ("0" * 32, {"missing": ["resume:1"] * 21}, ["missing"]),
    ],
)
def test_what_cannot_be_asked_is_refused(
    client: httpx.Client, request_id: str, parameters: dict[str, Any], fields: list[str]
) -> None:
    error = error_of(answer_of(client, request_id, **parameters), 422, "invalid_request")
    assert [detail["field"] for detail in error["details"]] == fields


def test_nobody_but_administrators_is_told(client: httpx.Client) -> None:
    error_of(client.get(f"/api/explain/{'0' * 32}"), 401, "unauthorized")
    error_of(client.get(f"/api/explain/{'0' * 32}", headers={"Authorization": "Bearer another"}), 403, "forbidden")


def test_calls_are_limited_in_rate(client: httpx.Client) -> None:
    error_of(answer_of(client, "0" * 32), 404, "not_found")
    while (answer := client.get(f"/api/explain/{'0' * 32}", headers=ADMINISTRATOR)).status_code != 429:
        assert answer.status_code == 404
    assert int(answer.headers["Retry-After"]) >= 1


def test_what_is_not_there_or_was_forgotten_is_404_with_a_reason(client: httpx.Client, place: Place) -> None:
    assert "No feed of that request_id" in error_of(answer_of(client, "0" * 32), 404, "not_found")["message"]
    feed = decided(client, place.folder, SELF_ID=77_001)
    assert explained(client, feed["request_id"])["user_id"] == 77_001
    assert client.delete("/api/users/77001", headers=ADMINISTRATOR).status_code == 200
    answer = answer_of(client, feed["request_id"], missing=["resume:1"])
    assert "was forgotten" in error_of(answer, 404, "not_found")["message"]


def test_a_decision_of_another_release_is_refused_and_the_record_tells(client: httpx.Client, place: Place) -> None:
    feed = decided(client, place.folder, SELF_ID=77_002, N_VIDEOS=6)
    (path, *_) = [
        path
        for path in (place.folder / "decisions").iterdir()
        if bytes.fromhex(feed["request_id"]) in path.read_bytes()
    ]
    content = path.read_bytes()
    (record,) = [
        one for one in read_decisions(place.folder / "decisions") if one.request_id.hex() == feed["request_id"]
    ]
    payload = msgspec.msgpack.encode(record)
    start = content.index(payload)
    of_later = payload.replace(b"decision1", b"decision9")
    header = decision_log._HEADER.pack(b"RECD", len(of_later), decision_log.zlib.crc32(of_later))
    with open(path, "r+b") as file:
        file.seek(start - len(header))
        file.write(header + of_later)
    body = explained(client, feed["request_id"], missing=["resume:999999999"])
    assert "another release" in body["decision"]["refused"]
    assert names_of(body) == names_of(feed)


def test_a_decision_alone_tells_of_its_feed(client: httpx.Client, place: Place, user: int) -> None:
    """Decisions may outlive what recs_events keeps of a feed."""
    feed = decided(client, place.folder, SELF_ID=user, N_VIDEOS=12)
    record = find_decision(place.folder / "decisions", bytes.fromhex(feed["request_id"]))
    policy = load_policy(place.folder / "small-pools.toml")
    versions = Versions(Generation(place.catalog, policy), policy, place.catalog)
    body = Explanation(Recorded(None, record, ""), versions, FIRST_WORDS, "en").told()
    assert names_of(body) == names_of(feed)
    for now, then in zip(body["items"], feed["items"], strict=True):
        assert now["why"]["propensity"] == pytest.approx(then["why"]["propensity"], rel=0, abs=1e-9)
        if now["why"]["slot"] == now["why"]["pool"]:
            assert now["why"]["score"] == pytest.approx(then["why"]["score"], rel=1e-4)
        else:
            assert "score" not in now["why"], "its features were in the feed's record alone"


def test_what_versions_are_gone_for_is_said_to_be_of_today(client: httpx.Client, place: Place) -> None:
    """Last: the catalog of the feeds before is removed."""
    feed = ask(client, N_VIDEOS=4)
    store = CatalogStore(place.folder / "catalogs", keep=1)
    with closing(sqlite3.connect(place.folder / "interacpedia.sqlite")) as database, database:
        database.execute("UPDATE resumes SET deleted_at = created_at WHERE id = ?", (place.spoiled["unpublished"],))
    version = publish_catalog(settings_of(place.folder))
    while client.get("/ready").json()["catalog"] != version:
        pass
    assert explained(client, feed["request_id"])["origins"]["terms"] == "recomputed"
    store.remove_old()
    body = explained(client, feed["request_id"], missing=[names_of(feed)[0], "resume:999999999"])
    assert body["origins"]["terms"] == "today"
    assert names_of(body) == names_of(feed)


def test_the_command_says_the_same_without_a_service(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(place.folder))
    monkeypatch.setenv("COLUMNS", "200")
    configured = structlog.get_config()
    try:
        monkeypatch.setenv("POLICY_FILE", str(place.folder / "small-pools.toml"))
        words = ["feed", "0", "--size", "6", "--explain", "--lang", "es"]
        table = CliRunner().invoke(cli.app, [*words, "--missing", "resume:999999999"])
        assert table.exit_code == 0, table.output
        assert "Salió para un lugar VMP" in table.output
        assert "resume 999999999: not in tables\n  Las tablas no tienen esa fila." in table.output
        made = CliRunner().invoke(cli.app, [*words, "--json", "--missing", f"resume:{place.spoiled['blacklisted']}"])
        body = msgspec.json.decode(made.stdout)["body"]
        assert codes(body["missing"][0]) == ["not_eligible_blacklisted"]
        assert all(item["why"]["width"] > 0 for item in body["items"] if item["type"] == "resume")
        refused = CliRunner().invoke(cli.app, ["feed", "0", "--missing", "film:3"])
        assert refused.exit_code == 2
        assert "--missing" in refused.output
    finally:
        structlog.configure(**configured)
