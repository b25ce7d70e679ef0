"""Policies of a service with two workers, by the commands that an operator has."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from recommendation_service.catalog.store import CatalogStore
from recommendation_service.policies.policy import read_policy_file
from tests.end_to_end.service import PATIENCE_SECONDS, Service, load_demo, recs

WORKERS = 2


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("policies")
    load_demo(folder)
    with Service.gunicorn(folder, WORKERS, {"CATALOG_REFRESH_SECONDS": "1"}) as service:
        service.wait_until_ready()
        service.wait_until(lambda: len(service.workers) == WORKERS)
        yield service


def policy(service: Service, letter: str, **changes: float) -> str:
    """A policy file whose kinds' labels begin with a letter."""
    content = read_policy_file().decode()
    content = re.sub(r'^version = ".*"', f'version = "policy-{letter}"', content, flags=re.M)
    content = re.sub(r'^label = "', f'label = "{letter}-', content, flags=re.M)
    for name, value in changes.items():
        content = re.sub(rf"^{name} = .*", f"{name} = {value}", content, flags=re.M)
    path = service.folder / f"{letter}.toml"
    path.write_text(content)
    return str(path)


def command(service: Service, *arguments: str) -> Any:
    done = recs("policy", *arguments, "--json", folder=service.folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def letter(service: Service) -> str:
    """What a feed was made by, over a connection of its own: any worker may have it."""
    with httpx.Client(base_url=service.address, timeout=PATIENCE_SECONDS) as client:
        body = client.post("/api/search/total", json={"N_VIDEOS": 6, "explain": True}).json()["body"]
    (found,) = {item["why"]["slot"].partition("-")[0] for item in body["items"]}
    return str(found)


def is_everywhere(service: Service, wanted: str) -> bool:
    return all(letter(service) == wanted for _ in range(12 * WORKERS))


def test_a_policy_is_published_served_by_every_worker_and_gone_back_from(service: Service) -> None:
    first = command(service, "publish", policy(service, "A"), "--why", "a start", "--by", "ana")["version"]
    service.wait_until(lambda: service.metric("recs_policy_swaps_total") == WORKERS)
    assert is_everywhere(service, "A")

    second = command(service, "publish", policy(service, "B"), "--expect", first)["version"]
    service.wait_until(lambda: service.metric("recs_policy_swaps_total") == 2 * WORKERS)
    assert is_everywhere(service, "B")

    late = recs("policy", "rollback", "--why", "late", "--expect", first, folder=service.folder)
    assert late.returncode == 1
    assert f"the current version is {second}, not {first}" in late.stderr
    assert command(service, "rollback", "--why", "worse") == {"current": first, "pinned": None}
    service.wait_until(lambda: is_everywhere(service, "A"))

    listed = command(service, "list")
    assert listed["current"] == first
    assert [entry["did"] for entry in listed["journal"]] == ["publish", "publish", "publish", "rollback"]
    assert (listed["journal"][1]["who"], listed["journal"][1]["why"]) == ("ana", "a start")
    assert "@" in listed["journal"][3]["who"]
    for words in (["policy", "list"], ["policy", "show"], ["policy", "show", second], ["policy", "verify"]):
        shown = recs(*words, folder=service.folder)
        assert shown.returncode == 0, shown.stderr
        assert first in shown.stdout or second in shown.stdout


def test_the_refresher_builds_with_a_policy_that_needs_another_catalog(service: Service) -> None:
    version = command(service, "publish", policy(service, "C", fresh_days=3.0))["version"]
    digest = command(service, "show", version)["catalog_digest"]
    catalogs = CatalogStore(service.data_dir / "catalogs", keep=3)

    def is_of_the_policy() -> bool:
        manifest = catalogs.manifest(service.catalog())
        return (manifest["policy_digest"], manifest["policy_version"]) == (digest, version)

    service.wait_until(is_of_the_policy)
    assert is_everywhere(service, "C")


def test_workers_that_die_while_policies_change_come_back_with_the_current_one(service: Service) -> None:
    """Catalog and policy are one value: a worker has both or neither, and there is nothing to repair."""
    for name, fresh_days in (("D", 4.0), ("E", 5.0), ("F", 6.0)):
        command(service, "publish", policy(service, name, fresh_days=fresh_days))
        os.kill(min(service.workers), signal.SIGKILL)

    service.wait_until(lambda: len(service.workers) == WORKERS and is_everywhere(service, "F"))

    assert service.get("/ready").status_code == 200
    assert service.metric("recs_policy_refused_total") == 0
    assert "Traceback" not in service.log


def test_a_pinned_policy_is_served_after_a_new_start_too(service: Service, tmp_path: Path) -> None:
    pinned = command(service, "list")["current"]
    command(service, "pin", pinned, "--why", "the fair")
    command(service, "publish", policy(service, "G"))
    (tmp_path / "data").mkdir()
    for name in ("interacpedia.sqlite", "catalogs", "policies"):
        (tmp_path / "data" / name).symlink_to(service.data_dir / name)

    with Service.uvicorn(tmp_path, {"CATALOG_REFRESHER": "false"}) as second:
        second.wait_until_ready()
        assert letter(second) == "F"
    command(service, "unpin", "--why", "the fair is over")


def test_what_cannot_be_published_is_one_sentence(service: Service, tmp_path: Path) -> None:
    before = command(service, "list")["current"]
    (tmp_path / "wrong.toml").write_text("version = 3")
    (tmp_path / "theta.npy").write_bytes(b"no array")
    right = policy(service, "H")
    attempts = {
        "is not there": ["publish", str(tmp_path / "missing.toml")],
        "is wrong": ["publish", str(tmp_path / "wrong.toml")],
        "is no array": ["publish", right, "--theta", str(tmp_path / "theta.npy"), "--A", str(tmp_path / "theta.npy")],
        "lacks A": ["publish", right, "--theta", str(tmp_path / "theta.npy")],
        "is unknown": ["promote", "7", "--why", "x"],
        "lacks why": ["pin", before],
    }
    for what, arguments in attempts.items():
        done = recs("policy", *arguments, folder=service.folder)
        assert done.returncode in (1, 2), what
        assert "Traceback" not in done.stderr, what
        assert done.stderr, what
    assert command(service, "list")["current"] == before
