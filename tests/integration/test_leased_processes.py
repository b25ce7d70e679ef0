"""Another leased process is one entry of the registry: the service keeps it, shows it, asks it, minds its lock."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from recommendation_service.bootstrap import create_app
from recommendation_service.core.config import Settings
from recommendation_service.processes import registry
from recommendation_service.processes.leases import is_taken, open_lease
from recommendation_service.processes.registry import FLUSHER, LEASED, LeasedProcess, pool_share
from recommendation_service.processes.requests import answered, ask, asked
from tests.end_to_end.in_process import logs_left_alone, make_app, served
from tests.end_to_end.service import PATIENCE_SECONDS
from tests.servers import wait_until
from tests.support.leased_process import IDLER
from tests.support.old_data_dir import unpacked


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the service and, by the environment, of its processes."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'interacpedia.sqlite'}")
    (tmp_path / "interacpedia.sqlite").touch()
    # Before the flusher, so that whatever lets the flusher start would have started it.
    monkeypatch.setattr(registry, "LEASED", (IDLER, *LEASED))
    return tmp_path


@pytest.fixture
def client(data_dir: Path) -> Iterator[httpx.Client]:
    with logs_left_alone(), served(make_app(data_dir)) as found:
        yield found


def runs(client: httpx.Client, process: LeasedProcess) -> bool:
    return f'recs_processes{{process="{process.name}"}} 1.0\n' in client.get("/metrics").text


def pid_of_idler(folder: Path) -> int:
    try:
        return int(json.loads((folder / IDLER.status_file).read_bytes())["pid"])
    except OSError:
        return 0


def test_an_entry_is_supervised_shown_and_asked(client: httpx.Client, data_dir: Path) -> None:
    folder = data_dir / "idler"
    assert wait_until(lambda: pid_of_idler(folder) > 0, PATIENCE_SECONDS)
    assert runs(client, IDLER)
    assert is_taken(IDLER, folder)

    token = ask(IDLER, folder)
    assert wait_until(lambda: answered(IDLER, folder) >= token, PATIENCE_SECONDS)

    first = pid_of_idler(folder)
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: pid_of_idler(folder) != first, PATIENCE_SECONDS)


def test_its_lock_is_respected(data_dir: Path) -> None:
    folder = data_dir / "idler"
    with logs_left_alone(), ExitStack() as holding:
        assert holding.enter_context(open_lease(IDLER, folder)).take()
        with served(make_app(data_dir)) as client:
            assert wait_until(lambda: runs(client, FLUSHER), PATIENCE_SECONDS)
            assert not runs(client, IDLER)
            holding.close()
            assert wait_until(lambda: runs(client, IDLER), PATIENCE_SECONDS)
    assert not is_taken(IDLER, folder)


@pytest.mark.parametrize("process", LEASED, ids=lambda process: process.name)
def test_ready_names_each_that_cannot_run(tmp_path: Path, process: LeasedProcess) -> None:
    old = unpacked(tmp_path)  # with a catalog, so that feeds are served
    settings = Settings(data_dir=old.data_dir, database_url=SecretStr(f"sqlite:///{old.database}"), learner="shadow")
    lock = process.folder(settings) / process.lock_file
    lock.mkdir(parents=True)  # nobody can open it, the administrator neither

    def problems() -> list[str]:
        found: list[str] = client.get("/ready").json().get("problems", [])
        return [problem for problem in found if problem.startswith("There is no")]

    with logs_left_alone(), served(create_app(settings)) as client:
        said = f"the folder {lock.parent} of the {process.name} cannot be used: Is a directory"
        assert wait_until(lambda: problems() == [f"There is no {process.name}: {said}."], PATIENCE_SECONDS)
        lock.rmdir()
        assert wait_until(lambda: problems() == [], PATIENCE_SECONDS)


def test_it_has_its_share_of_the_connections(data_dir: Path) -> None:
    settings = Settings(data_dir=data_dir, gunicorn_workers=8)
    shares = {name: pool_share(settings, name).connections for name in ("idler", "refresher", "flusher", "worker")}
    assert shares == {"idler": 3, "refresher": 2, "flusher": 4, "worker": 1}


@pytest.mark.parametrize("process", LEASED, ids=lambda process: process.name)
def test_each_entry_names_a_module_and_files_of_its_own(process: LeasedProcess) -> None:
    assert find_spec(process.module) is not None
    others = [other for other in LEASED if other is not process]
    for name in ("name", "module", "lock_file", "status_file", "request_file"):
        assert getattr(process, name) not in [getattr(other, name) for other in others]


def test_a_request_is_later_than_all_before_whatever_is_left_of_the_files(tmp_path: Path) -> None:
    assert asked(FLUSHER, tmp_path) == answered(FLUSHER, tmp_path) == ""
    first = ask(FLUSHER, tmp_path)
    (tmp_path / FLUSHER.request_file).unlink()
    (tmp_path / FLUSHER.status_file).write_text(json.dumps({FLUSHER.answer: first}))
    assert ask(FLUSHER, tmp_path) > first
    for damage in (b"", b"\xff", b"[]", b"7", b'{"flush_token": null}'):
        (tmp_path / FLUSHER.status_file).write_bytes(damage)
        assert answered(FLUSHER, tmp_path) == ""
