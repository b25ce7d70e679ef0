"""A policy version is served by a running service: taken up whole, refused where it is damaged, and gone back from."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.feed.compilation import compile_apart
from recommendation_service.model.kinds import KINDS
from recommendation_service.policies.choice import PolicyChoice
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.policy import Learned, load_policy, read_policy_file
from recommendation_service.policies.store import POLICY, PolicyStore
from recommendation_service.ranking.stages import rank
from tests.end_to_end.in_process import logs_left_alone, make_app, publish_catalog, served
from tests.end_to_end.service import load_demo, sum_of_samples
from tests.servers import wait_until
from tests.support.policies import FEATURES

PATIENCE_SECONDS = 60
TOKEN = "an-administrators-token"
START = datetime(2026, 11, 29, 10, tzinfo=UTC)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's database and a catalog."""
    compile_apart(lambda *_: None)
    folder = tmp_path_factory.mktemp("policies")
    load_demo(folder)
    publish_catalog(Settings(data_dir=folder / "data"))
    return folder / "data"


@pytest.fixture
def data_dir(built: Path, tmp_path: Path) -> Path:
    """The same, with policies of the test's own."""
    for name in ("interacpedia.sqlite", "catalogs"):
        (tmp_path / name).symlink_to(built / name)
    return tmp_path


@pytest.fixture
def store(data_dir: Path) -> PolicyStore:
    return PolicyStore(data_dir / "policies", keep=10)


@pytest.fixture
def client(data_dir: Path) -> Iterator[httpx.Client]:
    with logs_left_alone(), served(make_app(data_dir, admin_token=SecretStr(TOKEN))) as found:
        yield found


def labelled(letter: str) -> bytes:
    """The shipped policy, with a letter before each kind's label, by which feeds tell what they were made by."""
    named = re.sub(rb'^version = ".*"', f'version = "policy-{letter}"'.encode(), read_policy_file(), flags=re.M)
    return re.sub(rb'^label = "', f'label = "{letter}-'.encode(), named, flags=re.M)


def deed(number: int) -> Deed:
    return Deed(START + timedelta(minutes=number), "ana@desk", "to see")


def publish(store: PolicyStore, letter: str, learned: Learned | None = None, **options: Any) -> str:
    return store.publish(labelled(letter), learned, deed(ord(letter)), **options)


def letters(client: httpx.Client) -> set[str]:
    """What the slots of one feed say that they were made by; - is the policy that ships."""
    body = client.post("/api/search/total", json={"N_VIDEOS": 12, "explain": True}).json()["body"]
    labels = {item["why"]["slot"] for item in body["items"]}
    assert labels
    return {label[0] if label[1:2] == "-" else "-" for label in labels}


def metric(client: httpx.Client, name: str) -> float:
    return sum_of_samples(client.get("/metrics").text, name)


def problems(client: httpx.Client) -> list[str]:
    found: list[str] = client.get("/ready").json().get("problems", [])
    return found


def damage(store: PolicyStore, version: str) -> None:
    path = store.folder / version / POLICY
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def test_a_policy_is_taken_up_without_a_compilation(client: httpx.Client, store: PolicyStore) -> None:
    assert letters(client) == {"-"}
    compiled = len(rank.signatures)  # type: ignore[attr-defined]
    theta = np.random.default_rng(1).normal(size=(len(KINDS), FEATURES))

    publish(store, "A", Learned(theta, np.broadcast_to(np.eye(FEATURES) * 3, (len(KINDS), FEATURES, FEATURES))))

    assert wait_until(lambda: letters(client) == {"A"}, PATIENCE_SECONDS)
    assert wait_until(lambda: metric(client, "recs_policy_swaps_total") == 1, PATIENCE_SECONDS)
    assert 'recs_catalog_info{policy="policy-A"} 1.0' in client.get("/metrics").text
    assert len(rank.signatures) == compiled  # type: ignore[attr-defined]


def test_each_feed_is_of_one_policy_whatever_is_put_in_its_place(client: httpx.Client, store: PolicyStore) -> None:
    publish(store, "A")
    seen: list[set[str]] = []
    done = Event()

    def ask() -> None:
        while not done.is_set():
            seen.append(letters(client))

    asking = Thread(target=ask)
    asking.start()
    try:
        for letter in "BCDE":
            publish(store, letter)
            assert wait_until(lambda: bool(seen) and letter in seen[-1], PATIENCE_SECONDS)  # noqa: B023
    finally:
        done.set()
        asking.join()

    assert {len(found) for found in seen} == {1}
    assert {"B", "C", "D", "E"} <= set().union(*seen)


def test_a_damaged_version_is_refused_and_what_was_served_is_served_on(
    client: httpx.Client, store: PolicyStore
) -> None:
    publish(store, "A")
    assert wait_until(lambda: letters(client) == {"A"}, PATIENCE_SECONDS)
    version = publish(store, "B", aside=True)
    damage(store, version)

    store.point_at(version)

    assert wait_until(lambda: metric(client, "recs_policy_refused_total") == 1, PATIENCE_SECONDS)
    (problem,) = problems(client)
    assert f"{version} is damaged" in problem
    assert metric(client, "recs_problems") == 1
    # For as long as it is looked at several times.
    assert not wait_until(lambda: letters(client) != {"A"} or metric(client, "recs_policy_refused_total") != 1, 1.0)

    publish(store, "C")
    assert wait_until(lambda: letters(client) == {"C"}, PATIENCE_SECONDS)
    assert problems(client) == []


def test_a_start_with_a_damaged_version_serves_what_was_served_before_it(data_dir: Path, store: PolicyStore) -> None:
    publish(store, "A")
    publish(store, "B")  # and gone back from, so it is not what was served before the last
    store.rollback(deed(200))
    damage(store, publish(store, "C"))

    with logs_left_alone(), served(make_app(data_dir)) as client:
        assert letters(client) == {"A"}
        assert "is damaged" in problems(client)[0]


def test_a_start_with_only_damaged_versions_serves_the_policy_that_ships(data_dir: Path, store: PolicyStore) -> None:
    damage(store, publish(store, "A"))

    with logs_left_alone(), served(make_app(data_dir)) as client:
        assert letters(client) == {"-"}
        assert "is damaged" in problems(client)[0]


def test_a_feed_is_explained_by_its_own_policy_while_that_is_kept(
    client: httpx.Client, data_dir: Path, store: PolicyStore
) -> None:
    publish(store, "A")
    assert wait_until(lambda: letters(client) == {"A"}, PATIENCE_SECONDS)
    body = client.post("/api/search/total", json={"N_VIDEOS": 6, "explain": True}).json()["body"]
    kept = publish(store, "B")
    assert wait_until(lambda: letters(client) == {"B"}, PATIENCE_SECONDS)

    def explained() -> list[dict[str, Any]]:
        answer = client.get(f"/api/explain/{body['request_id']}", headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200, answer.text
        return [item["why"] for item in answer.json()["body"]["items"]]

    for why, then in zip(explained(), [item["why"] for item in body["items"]], strict=True):
        assert why["slot"] == then["slot"]
        assert why["score"] == pytest.approx(then["score"], rel=1e-3)
    for version in store.versions():
        if version != kept:
            shutil.rmtree(store.folder / version)
    assert all("score" not in why for why in explained())


def test_where_policy_file_is_set_it_decides_alone(data_dir: Path, store: PolicyStore) -> None:
    (data_dir / "mine.toml").write_bytes(labelled("M"))
    publish(store, "A")

    with logs_left_alone(), served(make_app(data_dir, policy_file=data_dir / "mine.toml")) as client:
        publish(store, "B")
        assert not wait_until(lambda: letters(client) != {"M"}, 1.0)


def test_a_folder_of_policies_that_is_gone_changes_nothing_that_is_served(
    client: httpx.Client, store: PolicyStore
) -> None:
    publish(store, "A")
    assert wait_until(lambda: letters(client) == {"A"}, PATIENCE_SECONDS)

    store.folder.rename(store.folder.with_name("gone"))

    assert not wait_until(lambda: letters(client) != {"A"}, 1.0)


# Whoever follows the store: workers and the refresher.


def test_a_shadow_is_taken_up_where_it_draws_from_the_same_pools(data_dir: Path, store: PolicyStore) -> None:
    refused: list[None] = []
    publish(store, "A")
    bold = store.publish(labelled("A").replace(b"alpha = ", b"alpha = 1"), None, deed(1), aside=True)
    wide = store.publish(labelled("A").replace(b"creator_window = ", b"creator_window = 1"), None, deed(2), aside=True)
    choice = PolicyChoice(Settings(data_dir=data_dir), lambda: refused.append(None)).take_up()
    assert choice.shadows == ()

    store.shadow([bold, wide], deed(3))
    assert choice.is_changed()
    choice.take_up()

    assert [shadow.version for shadow in choice.shadows] == [bold]
    (problem,) = choice.problems
    assert f"{wide} draws from other pools" in problem
    assert len(refused) == 1
    assert not choice.is_changed()
    store.shadow([], deed(4))
    choice.take_up()
    assert choice.shadows == ()


def test_a_policy_that_adds_features_is_served_once_a_catalog_has_them(
    client: httpx.Client, built: Path, data_dir: Path, store: PolicyStore
) -> None:
    publish(store, "A")
    assert wait_until(lambda: letters(client) == {"A"}, PATIENCE_SECONDS)
    added = labelled("B") + b'\n[[added_features]]\nname = "age_in_months"\ncolumn = "age_days"\nscale = 30.0\n'
    version = store.publish(added, None, deed(2))

    assert wait_until(lambda: "age_in_months = age_days / 30.0" in client.get("/ready").text, PATIENCE_SECONDS)
    assert version in client.get("/ready").text
    assert letters(client) == {"A"}

    (data_dir / "catalogs").unlink()  # the other tests' too
    shutil.copytree(built / "catalogs", data_dir / "catalogs")
    (file := data_dir / "added.toml").write_bytes(added)
    publish_catalog(Settings(data_dir=data_dir, policy_file=file))

    assert wait_until(lambda: letters(client) == {"B"}, PATIENCE_SECONDS)
    assert version not in client.get("/ready").text or "lacks" not in client.get("/ready").text
    store.rollback(deed(3))
    assert wait_until(lambda: letters(client) == {"A"}, PATIENCE_SECONDS)


def test_a_version_that_lacks_its_file_is_refused(data_dir: Path, store: PolicyStore) -> None:
    choice = PolicyChoice(Settings(data_dir=data_dir)).take_up()
    version = publish(store, "A")
    (store.folder / version / POLICY).unlink()

    choice.take_up()

    assert choice.policy.version == load_policy().version
    assert f"{version} is damaged: {POLICY} is missing" in choice.problems[0]


def test_the_catalog_of_the_policy_before_is_served_from_until_the_next_build(
    client: httpx.Client, data_dir: Path, store: PolicyStore
) -> None:
    """Static sums are the catalog's; what is drawn by is the policy's."""
    catalogs = CatalogStore(data_dir / "catalogs", keep=3)
    version = catalogs.current()
    assert version is not None
    other = labelled("A").replace(b"fresh_days = ", b"fresh_days = 1")
    store.publish(other, None, deed(1))

    assert wait_until(lambda: letters(client) == {"A"}, PATIENCE_SECONDS)

    assert client.get("/ready").json()["catalog"] == version
    current = store.current()
    assert current is not None
    assert catalogs.manifest(version)["policy_digest"] != store.open(current).catalog_digest
