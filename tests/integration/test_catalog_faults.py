"""Real faults while a catalog is written: a disk that is full, a process that is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL

from recommendation_service.catalog.built import BuiltCatalog
from recommendation_service.catalog.store import CatalogStore
from tests.unit.sources.operator_database import NOW, OperatorDatabase

REPOSITORY = Path(__file__).parents[2]

# Publishes a version, meets a fault at the next, and says what is there; then publishes without the fault.
# Arguments: the folder of the source, that of the catalogs, the fault, and its amount.
PROGRAM = """
import json, os, resource, signal, sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np

from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.errors import CatalogError
from tests.integration.test_catalog_faults import built_from

source, folder, fault, amount = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
built, store = built_from(source), CatalogStore(folder, keep=3)
later = replace(built, built_at=built.built_at + timedelta(seconds=1))
said = {"first": store.publish(built)}
filler = folder.parent / "filler"
no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
if fault == "file size":
    resource.setrlimit(resource.RLIMIT_FSIZE, (amount, no_limit[1]))
if fault == "full disk":
    with open(filler, "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    os.truncate(filler, filler.stat().st_size - amount)
if fault == "killed":
    name = ["os.fsync", "os.rename", "os.replace"][amount % 3]
    calls, real = [0], getattr(os, name.removeprefix("os."))
    def kill(*arguments, **names):
        calls[0] += 1
        if calls[0] > amount // 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **names)
    setattr(os, name.removeprefix("os."), kill)
try:
    store.publish(later)
except CatalogError as error:
    said["problem"] = str(error)
said |= {"current": store.current(), "damage": store.verify(said["first"])}
said["files"] = sorted(path.name for path in folder.iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)
filler.unlink(missing_ok=True)
said["after"] = store.publish(later)
said["after_damage"] = store.verify(said["after"])
print(json.dumps(said))
"""


def built_from(source: Path) -> BuiltCatalog:
    """A catalog whose largest file is its items (some 70 kB) and whose columns are of a few kB."""
    url = URL.create("sqlite", database=str(source / "interacpedia.sqlite"))
    database = OperatorDatabase(url, source)
    creator = database.add("users")
    for _ in range(100):
        database.add("resumes", user_id=creator, skills='["Canto", "Baile"]', description="ñandú " * 40)
    return database.build().built


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )


def program(folder: Path, fault: str, amount: int) -> list[str]:
    source, catalogs = folder / "source", folder / "disk" / "catalogs"
    source.mkdir(exist_ok=True)
    catalogs.parent.mkdir(exist_ok=True)
    return [sys.executable, "-c", PROGRAM, str(source), str(catalogs), fault, str(amount)]


def assert_the_old_version_served_on(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert "could not be written" in said["problem"]
    assert said["current"] == said["first"]
    assert said["damage"] == []
    assert said["files"] == sorted([said["first"], "CURRENT"])
    assert said["after"] > said["first"]
    assert said["after_damage"] == []
    return said


@pytest.mark.parametrize("limit", [0, 300, 5_000, 30_000])
def test_a_file_that_cannot_be_written_whole_leaves_the_old_version(tmp_path: Path, limit: int) -> None:
    """The system's limit on the size of a file stops a write in its middle, as a full disk does."""
    assert_the_old_version_served_on(run(program(tmp_path, "file size", limit), tmp_path))


@pytest.mark.parametrize("left", [0, 8_192, 65_536, 114_688])
def test_a_full_disk_leaves_the_old_version_and_the_next_build_after_it_succeeds(tmp_path: Path, left: int) -> None:
    """On a file system of 1 MiB of our own; where a machine lets nobody mount one, the limit on files stands in."""
    arguments = program(tmp_path, "full disk", left)
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path / 'disk'}"
    may_mount = shutil.which("unshare") and run(["unshare", "-rm", "sh", "-c", mount], tmp_path).returncode == 0
    if not may_mount:
        assert_the_old_version_served_on(run(program(tmp_path, "file size", left // 8), tmp_path))
        return

    done = run(["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", *arguments], tmp_path)

    assert_the_old_version_served_on(done)


FSYNC, RENAME, REPLACE = range(3)
KILLS = {
    "at the first file": FSYNC,
    "at the tenth file": FSYNC + 3 * 10,
    "before the version has its name": RENAME,
    "before the version is current": REPLACE,
}


@pytest.mark.parametrize("moment", KILLS)
def test_a_build_that_is_killed_leaves_the_old_version_and_the_next_one_cleans_up(tmp_path: Path, moment: str) -> None:
    done = run(program(tmp_path, "killed", KILLS[moment]), tmp_path)
    store = CatalogStore(tmp_path / "disk" / "catalogs", keep=3)

    assert done.returncode == -signal.SIGKILL, done.stderr
    first = min(store.versions())
    assert store.current() == first
    assert store.verify(first) == []

    (tmp_path / "again").mkdir()
    built = replace(built_from(tmp_path / "again"), built_at=NOW + timedelta(seconds=2))
    version = store.publish(built)

    assert store.current() == version
    assert store.verify(version) == []
    assert [path.name for path in store.folder.iterdir() if path.name.startswith(".")] == []
