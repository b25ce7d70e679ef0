"""A DATA_DIR that is taken over by another user of its group, and commands that root runs in it before the service."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import stat
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import structlog
from pydantic import SecretStr
from typer.testing import CliRunner

from recommendation_service.catalog.store import CatalogStore
from recommendation_service.cli import app
from recommendation_service.core.clock import Clock
from recommendation_service.core.config import Settings
from recommendation_service.core.files import folder_problem, make_folder, open_lock, write_whole
from recommendation_service.demo.schema import metadata
from recommendation_service.flush.dead_letters import DeadLetters, dead_letter
from recommendation_service.flush.flusher import Flusher
from recommendation_service.flush.flusher_status import read_status
from recommendation_service.flush.forgetting import forget_user
from recommendation_service.flush.tables import make_writing_engine
from recommendation_service.log.forgotten import read_forgotten
from recommendation_service.log.segments import SegmentWriter
from recommendation_service.memory.entries import user_key
from recommendation_service.memory.user_memory import UserMemory
from recommendation_service.policies.choice import PolicyChoice
from recommendation_service.processes.registry import FLUSHER, REFRESHER
from recommendation_service.processes.requests import ask
from recommendation_service.serving.condition import Condition
from recommendation_service.serving.editors_watch import EditorsWatch
from recommendation_service.serving.generation import Serving
from recommendation_service.telemetry import metrics_files
from recommendation_service.telemetry.metrics import Metrics
from tests.support.events import feedback, write_segment

T = TypeVar("T")

GROUP, ONE, OTHER = 64_001, 64_002, 64_003
KEY = user_key(7, 0) or b""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may be other users")


def as_user(uid: int, work: Callable[[], T], umask: int = 0o002) -> T:
    """What ``work`` gives, done by a child that is that user of GROUP; what it raises is raised here."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that other tests have begun
        child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.setgroups([])
            os.setgid(GROUP)
            os.setuid(uid)
            os.umask(umask)
            os.chdir("/")
            try:
                outcome: tuple[bool, Any] = (True, work())
            except Exception as error:  # noqa: BLE001 - told to the parent
                outcome = (False, "".join(traceback.format_exception(error)))
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump(outcome, pipe)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    succeeded, value = pickle.loads(content)  # noqa: S301
    assert succeeded, value
    result: T = value
    return result


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Modules and machine code that are read at their first use, from where another user may not read."""
    data = tmp_path_factory.mktemp("loaded")
    use(data, "once")
    look_at(data)


@pytest.fixture
def shared(loaded: None) -> Iterator[Path]:
    """A folder of GROUP that all of it may use; not below pytest's, which only one user may pass."""
    folder = Path(tempfile.mkdtemp(prefix="recs-shared-"))
    folder.chmod(0o755)
    data = folder / "data"
    data.mkdir()
    os.chown(data, ONE, GROUP)
    data.chmod(0o2770)
    yield data
    shutil.rmtree(folder)


def settings_of(data: Path) -> Settings:
    database = data / "interacpedia.sqlite"
    if not database.exists():
        database.touch()
        database.chmod(0o660)
    return Settings(database_url=SecretStr(f"sqlite:///{database}"), data_dir=data, seen_megabytes=16)


def use(data: Path, event_id: str) -> None:
    """All that a service writes."""
    settings = settings_of(data)
    events = settings.events_dir
    make_folder(events)
    with_one = write_segment(
        events, [feedback(event_id=event_id)], name=f"{len(list(events.glob('*'))):020d}-{os.getpid()}"
    )
    assert with_one.exists()
    DeadLetters(events).add([dead_letter(b"payload", event_id)])
    memory = UserMemory(settings.seen_dir, 16 << 20)
    try:
        memory.merge(KEY, np.array([[len(event_id) << 1, 1]], np.int64))
    finally:
        memory.close()
    ask(FLUSHER, events)
    ask(REFRESHER, settings.catalog_dir)
    CatalogStore(settings.catalog_dir, 3).point_at(f"version-{event_id}")
    os.close(open_lock(events / "flusher.lock"))
    environment = dict(os.environ)
    try:
        metrics_files.claim(data / "metrics")
    finally:
        os.environ.clear()
        os.environ.update(environment)
    engine = make_writing_engine(settings)
    with engine.begin() as connection:
        metadata.tables["activity_log"].create(connection, checkfirst=True)
    flusher = Flusher(settings, engine)
    flusher.step()
    assert flusher.flush_all(), flusher.status.error
    flusher.tell()
    flusher.close()
    forget_user(engine, events, 99)
    engine.dispose()
    assert read_forgotten(events)


def look_at(data: Path) -> tuple[list[str], list[str], str]:
    """What /ready lists, the names of /metrics, and `recs events status`."""
    settings = settings_of(data)
    store, clock = CatalogStore(settings.catalog_dir, 3), Clock()
    serving = Serving(settings, store, PolicyChoice(settings), Metrics(), clock)
    editors = EditorsWatch(settings, serving)
    editors.first_look()
    condition = Condition(settings, store, clock, serving, lambda: None, editors)
    names = [name for name, *_ in condition.facts()]
    shown = CliRunner().invoke(app, ["events", "status"], env={"DATA_DIR": str(data), "COLUMNS": "200"})
    return condition.problems(), names, shown.stdout


class Once(threading.Event):
    """Lets a process look once."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    def is_set(self) -> bool:
        self.looks += 1
        return self.looks > 1

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002
        return True


@as_root
def test_a_folder_that_another_user_takes_over_goes_on(shared: Path) -> None:
    as_user(ONE, lambda: use(shared, "one"))
    as_user(OTHER, lambda: use(shared, "other"))
    as_user(ONE, lambda: use(shared, "one again"))
    assert as_user(OTHER, lambda: len(DeadLetters(shared / "events").all())) == 3
    status = read_status(shared / "events")
    assert status is not None
    assert (status.error, status.flushed, status.unreadable_segments) == (None, {"impression": 3}, 0)
    for path in shared.rglob("*"):
        found = path.stat()
        if path.name.startswith("interacpedia"):
            continue
        wanted = 0o2770 if path.is_dir() else 0o660
        assert (path, oct(stat.S_IMODE(found.st_mode)), found.st_gid) == (path, oct(wanted), GROUP)


@as_root
def test_what_a_stricter_user_left_is_said_and_the_rest_goes_on(shared: Path) -> None:
    events = shared / "events"

    def leave() -> None:
        use(shared, "one")
        path = write_segment(events, [feedback(event_id="left")], name="00000000000000000009-1")
        path.chmod(0o600)  # as an earlier release made them

    as_user(ONE, leave)

    def go_on() -> tuple[list[str], str]:
        settings = settings_of(shared)
        write_segment(events, [feedback(event_id="other")], name="00000000000000000010-1")
        engine = make_writing_engine(settings)
        flusher = Flusher(settings, engine)
        flusher.step()
        assert flusher.flush_all(), flusher.status.error
        flusher.tell()
        engine.dispose()
        problems, _, shown = look_at(shared)
        return problems, shown

    problems, shown = as_user(OTHER, go_on)
    assert problems == [f"1 segments of {events} cannot be read by the flusher's user: their events wait."]
    assert "1 segments, which the flusher's user may not read" in shown
    assert (events / "00000000000000000009-1.segment").exists()
    assert not (events / "00000000000000000010-1.segment").exists()


@as_root
def test_a_folder_that_the_user_may_not_use_is_named(shared: Path) -> None:
    def make_for_itself() -> None:
        use(shared, "one")
        (shared / "events").chmod(0o700)

    as_user(ONE, make_for_itself)
    events = shared / "events"

    def look() -> tuple[list[str], list[str], str]:
        structlog.reset_defaults()  # the runner's output is closed
        flusher = Flusher(settings_of(shared), make_writing_engine(settings_of(shared)), stop=Once())
        flusher.run()
        assert flusher.status.error == f"{events} cannot be used: Permission denied"
        return look_at(shared)

    problems, names, shown = as_user(OTHER, look)
    assert problems == [f"The folder {events} cannot be read or written by user {OTHER}."]
    assert "recs_problems" in names
    assert f"cannot be read or written by user {OTHER}" in " ".join(shown.split())


@as_root
def test_what_root_makes_in_a_users_folder_is_that_users(shared: Path) -> None:
    mask = os.umask(0o077)
    try:
        use(shared, "root")
    finally:
        os.umask(mask)
    others = [path for path in shared.rglob("*") if not path.name.startswith("interacpedia")]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in others} == {(ONE, GROUP)}
    for path in shared.glob("interacpedia*"):
        os.chown(path, ONE, GROUP)
    as_user(ONE, lambda: use(shared, "one"))


@pytest.mark.parametrize(
    "command",
    [
        "events status",
        "events dead",
        "events export",
        "catalog list",
        "catalog verify",
        "catalog show",
        "config",
        "doctor",
        "migrate --dry-run",
        "feed 7",
    ],
)
def test_a_command_that_looks_makes_nothing(tmp_path: Path, command: str) -> None:
    data = tmp_path / "data"
    CliRunner().invoke(app, command.split(), env={"DATA_DIR": str(data), "COLUMNS": "200"})
    assert list(tmp_path.iterdir()) == []

    (data / "events").mkdir(parents=True)
    (data / "catalogs").mkdir()
    before = sorted(data.rglob("*"))
    CliRunner().invoke(app, command.split(), env={"DATA_DIR": str(data), "COLUMNS": "200"})
    assert sorted(data.rglob("*")) == before


@pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o755, 0o644), (0o750, 0o640), (0o770, 0o660), (0o700, 0o600)])
def test_files_have_their_folders_mode_and_events_are_not_for_everybody(
    tmp_path: Path, folder_mode: int, file_mode: int
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(folder_mode)
    write_whole(folder / "file", json.dumps({}))
    segment = SegmentWriter(folder / "name.segment", 1 << 16)
    segment.close()
    assert stat.S_IMODE((folder / "file").stat().st_mode) == file_mode
    assert stat.S_IMODE((folder / "name.segment").stat().st_mode) == file_mode & 0o660
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    assert folder_problem(folder) is None
    assert folder_problem(tmp_path / "none") is None
    assert "no folder" in (folder_problem(folder / "file") or "")
