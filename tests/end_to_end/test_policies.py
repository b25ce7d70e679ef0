"""Policies of a service with two workers, by the commands that an operator has."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
import pytest

from recommendation_service.catalog.store import CatalogStore
from recommendation_service.model.kinds import KINDS
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.policy import Learned, read_policy_file
from recommendation_service.policies.store import PolicyStore
from recommendation_service.ranking.compiled import kernel_folder
from tests.end_to_end.service import PATIENCE_SECONDS, Service, load_demo, recs
from tests.servers import LOOPBACK
from tests.support.policies import FEATURES

WORKERS = 2
# Of a feed at most. The kernels take half a minute to compile, and what a busy machine puts between is less.
SLOW_SECONDS = 5.0


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


@dataclass
class Load:
    """A steady one of feeds, over kept connections, until the block ends."""

    service: Service
    seconds: list[float] = field(default_factory=list)  # that each answer took
    letters: list[str] = field(default_factory=list)  # what it was made by, in the order of the answers
    failures: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(2 * WORKERS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)

    def wait_for(self, answers: int) -> None:
        """Until so many more have come."""
        enough = len(self.seconds) + answers
        self.service.wait_until(lambda: len(self.seconds) >= enough)

    def _client(self, number: int) -> None:
        connection = http.client.HTTPConnection(LOOPBACK, self.service.client.base_url.port, timeout=PATIENCE_SECONDS)
        body = json.dumps({"SELF_ID": number, "N_VIDEOS": 12, "explain": True})
        while not self._over.wait(0.02):
            began = time.monotonic()
            try:
                connection.request("POST", "/api/search/total", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                continue
            self.seconds.append(time.monotonic() - began)
            if answer.status == 200:
                items = json.loads(content)["body"]["items"]
                self.letters.append("".join({item["why"]["slot"].partition("-")[0] for item in items}))
            else:
                self.failures.append(f"{answer.status} {content[:200]!r}")
        connection.close()


def taken_up(service: Service, version: str) -> list[float]:
    """When each worker had taken up a policy, by its log; seconds since 1970."""
    lines = [line for line in service.log.splitlines() if '"policy taken up"' in line and version in line]
    return [datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp() for line in lines]


def test_under_load_a_policy_is_served_within_a_second_by_every_worker_and_nothing_is_compiled(
    service: Service, tmp_path: Path
) -> None:
    draw = np.random.default_rng(1)
    root = draw.normal(size=(len(KINDS), FEATURES, FEATURES))
    learned = Learned(draw.normal(size=(len(KINDS), FEATURES)), np.eye(FEATURES) + root @ root.transpose(0, 2, 1))
    np.save(tmp_path / "theta.npy", learned.theta)
    np.save(tmp_path / "A.npy", learned.A)
    arrays = ["--theta", str(tmp_path / "theta.npy"), "--A", str(tmp_path / "A.npy")]
    store = PolicyStore(service.data_dir / "policies", keep=10)

    def deed() -> Deed:
        return Deed(datetime.now(UTC), "ana@desk", "to see")

    def publish(name: str, found: Learned | None) -> None:
        store.publish(Path(policy(service, name)).read_bytes(), found, deed())

    ready = command(service, "publish", policy(service, "P"), "--aside")["version"]
    steps: dict[str, Callable[[], object]] = {
        "P": lambda: command(service, "promote", ready, "--why", "to see"),
        "Q": lambda: command(service, "publish", policy(service, "Q"), *arrays),
        "R": lambda: publish("R", None),
        "S": lambda: publish("S", learned),
        "U": lambda: publish("U", None),
        "V": lambda: publish("V", learned),
    }
    kernels = set(kernel_folder().rglob("*.nb?"))
    assert kernels

    took = []
    with Load(service) as load:
        load.wait_for(100)
        for name, step in steps.items():
            step()
            current = service.data_dir / "policies" / "CURRENT"
            version, named = current.read_text().strip(), current.stat().st_mtime
            service.wait_until(lambda version=version: len(taken_up(service, version)) == WORKERS)  # type: ignore[misc]
            took.append(max(taken_up(service, version)) - named)
            load.wait_for(4 * WORKERS)  # what was on its way may be of the policy before
            answered = len(load.letters)
            load.wait_for(50)
            assert set(load.letters[answered:]) == {name}

    assert load.failures == []
    assert max(load.seconds) < SLOW_SECONDS
    assert sorted(took)[-2] < 1.0, took  # all but one: a machine may stand still for a moment
    assert set(kernel_folder().rglob("*.nb?")) == kernels


DIES_BETWEEN = """
import os, signal
exec(open("gunicorn.conf.py").read())
reserve = post_fork

def post_fork(server, worker):
    reserve(server, worker)
    if worker.age > 2:
        return
    from recommendation_service.serving.generation import Serving
    new_catalog = Serving._new_catalog

    def dies(serving):
        if serving._pipeline is not None and serving._policies.policy is not serving._pipeline.policy:
            os.kill(os.getpid(), signal.SIGKILL)
        return new_catalog(serving)

    Serving._new_catalog = dies
"""


def test_a_worker_that_dies_between_taking_up_policy_and_catalog_is_followed_by_one_that_serves_both(
    service: Service, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    for name in ("interacpedia.sqlite", "catalogs", "policies"):
        (tmp_path / "data" / name).symlink_to(service.data_dir / name)
    (tmp_path / "dies.conf.py").write_text(DIES_BETWEEN)
    settings = {"CATALOG_REFRESHER": "false"}  # the other service's builds
    with Service.gunicorn(tmp_path, WORKERS, settings, str(tmp_path / "dies.conf.py")) as dying:
        dying.wait_until_ready()
        dying.wait_until(lambda: len(dying.workers) == WORKERS)
        before = dying.workers

        version = command(service, "publish", policy(service, "T", fresh_days=6.5))["version"]

        dying.wait_until(lambda: len(dying.workers) == WORKERS and not before & dying.workers)
        assert is_everywhere(dying, "T")
        digest = command(service, "show", version)["catalog_digest"]
        catalogs = CatalogStore(service.data_dir / "catalogs", keep=3)
        dying.wait_until(lambda: catalogs.manifest(dying.catalog())["policy_digest"] == digest)
        assert dying.log.count("was sent SIGKILL") == WORKERS
        assert dying.metric("recs_policy_refused_total") == 0
        assert "Traceback" not in dying.log


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
