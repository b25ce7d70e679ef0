"""Catalog versions on disk: whole or refused, current or kept, and never half."""

import fcntl
import hashlib
import json
import os
import shutil
import threading
from dataclasses import replace
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy.engine import URL

from recommendation_service.catalog.built import BuiltCatalog
from recommendation_service.catalog.store import ITEM_BYTES, CatalogStore
from recommendation_service.core.errors import CatalogError
from recommendation_service.model.columns import COLUMNS, LAYOUT_VERSION, SIZES
from recommendation_service.versions.store import MANIFEST
from tests.unit.sources.operator_database import NOW, OperatorDatabase, flipped

FILES = [*(f"{column}.npy" for column in COLUMNS), "item_offsets.npy", ITEM_BYTES, "names.json"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltCatalog:
    """A catalog with something in almost every column; tests only read it."""
    folder = tmp_path_factory.mktemp("built")
    database = OperatorDatabase(URL.create("sqlite", database=str(folder / "source.sqlite")), folder)
    creator = database.add("users", city="Bogota", name="Ana 🎬")
    videos = [
        database.add("resumes", user_id=creator, skills='["Canto", "Baile"]', tools='["Piano"]') for _ in range(3)
    ]
    database.add("challenges", user_id=creator)
    database.add("team_feedbacks", user_id=70, model_id=videos[0])
    database.add("likes", user_id=71, model_id=videos[1])
    database.add("user_connections", from_id=70, to_id=creator)
    user = database.add("users", id=70, updated_at=f"{NOW:%Y-%m-%d %H:%M:%S}")
    database.add("profiles", user_id=user, skills='["Canto"]')
    return database.build().built


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, built: BuiltCatalog) -> Path:
    folder = tmp_path_factory.mktemp("published")
    return folder / CatalogStore(folder, keep=3).publish(built)


@pytest.fixture
def version(store: CatalogStore, published: Path) -> str:
    """A version for the test to damage: of files that are the published ones until `own` makes a copy."""
    shutil.copytree(published.parent, store.folder, copy_function=os.link)
    return published.name


def own(path: Path) -> Path:
    """A file of its own, which a test may change: three hundred tests would copy fifty files each."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    return path


@pytest.fixture
def store(tmp_path: Path) -> CatalogStore:
    return CatalogStore(tmp_path / "catalogs", keep=3)


def later(built: BuiltCatalog, seconds: float) -> BuiltCatalog:
    return replace(built, built_at=built.built_at + timedelta(seconds=seconds))


def test_what_was_built_is_what_is_opened(store: CatalogStore, built: BuiltCatalog) -> None:
    version = store.publish(built, fingerprint="as of now")

    catalog = store.open(version)

    for name, (dtype, dimensions) in COLUMNS.items():
        written, read = getattr(built.arrays, name), getattr(catalog.arrays, name)
        assert read.dtype == written.dtype == dtype, name
        assert read.ndim == dimensions, name
        assert np.array_equal(read, written), name
    assert [getattr(catalog.arrays, name) for name in SIZES] == [getattr(built.arrays, name) for name in SIZES]
    assert [catalog.item_json(n) for n in range(len(built.item_bodies))] == built.item_bodies
    assert catalog.built_at == built.built_at.timestamp()
    assert catalog.counts == built.report.counts
    assert catalog.manifest["fingerprint"] == "as of now"
    assert catalog.manifest["policy_version"] == built.policy_version
    assert catalog.manifest["policy_digest"] == built.policy_digest
    assert catalog.manifest["report"] == built.report.as_json()
    assert store.names(version) == built.names
    assert store.verify(version) == []


def test_an_empty_catalog_is_one(store: CatalogStore, sqlite_url: URL, tmp_path: Path) -> None:
    version = store.publish(OperatorDatabase(sqlite_url, tmp_path).build().built)

    catalog = store.open(version)

    assert len(catalog.arrays.item_id) == 0
    assert catalog.item_offsets.tolist() == [0]


def test_nothing_that_is_opened_can_be_changed(store: CatalogStore, built: BuiltCatalog) -> None:
    catalog = store.open(store.publish(built))

    for name in COLUMNS:
        assert not getattr(catalog.arrays, name).flags.writeable, name
    assert catalog.item_bytes.readonly


def test_a_folder_that_does_not_exist_has_no_versions(store: CatalogStore) -> None:
    assert store.current() is None
    assert store.versions() == []
    with pytest.raises(CatalogError, match="version 7 does not exist"):
        store.open("7")


def test_versions_are_listed_oldest_first_and_the_last_is_current(store: CatalogStore, built: BuiltCatalog) -> None:
    versions = [store.publish(later(built, seconds)) for seconds in (0, 1, 2)]

    assert versions == sorted(versions)
    assert store.versions() == versions
    assert store.current() == versions[-1]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_as_many_versions_are_kept_as_were_asked_for(tmp_path: Path, built: BuiltCatalog, keep: int) -> None:
    store = CatalogStore(tmp_path / "catalogs", keep)

    versions = [store.publish(later(built, seconds)) for seconds in range(5)]

    assert store.versions() == versions[-keep:]


def test_the_current_version_is_never_removed(tmp_path: Path, built: BuiltCatalog) -> None:
    """The machine's clock was set back: the version that was just written is the oldest by name."""
    store = CatalogStore(tmp_path / "catalogs", keep=1)
    store.publish(later(built, 100))

    version = store.publish(built)

    assert store.current() == version
    store.open(version)


def test_an_earlier_version_can_be_made_current_again(store: CatalogStore, built: BuiltCatalog) -> None:
    first, _ = store.publish(built), store.publish(later(built, 1))

    store.point_at(first)

    assert store.current() == first


def test_a_reader_goes_on_reading_a_version_that_was_removed(tmp_path: Path, built: BuiltCatalog) -> None:
    store = CatalogStore(tmp_path / "catalogs", keep=1)
    first = store.publish(built)
    catalog = store.open(first)

    store.publish(later(built, 1))

    assert store.versions() != [first]
    assert not (store.folder / first).exists()
    assert [catalog.item_json(n) for n in range(len(built.item_bodies))] == built.item_bodies
    for name in COLUMNS:
        assert np.array_equal(getattr(catalog.arrays, name), getattr(built.arrays, name)), name


# Damage.


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_one_changed_bit_is_refused(store: CatalogStore, version: str, name: str, place: str) -> None:
    path = own(store.folder / version / name)
    content = path.read_bytes()
    position = {"first": 0, "middle": len(content) // 2, "last": len(content) - 1}[place]
    path.write_bytes(flipped(content, position))

    with pytest.raises(CatalogError, match=f"{version} is damaged: {name} does not match its checksum$"):
        store.open(version)
    assert store.verify(version) == [f"{name} does not match its checksum"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_file_is_refused(store: CatalogStore, version: str, name: str, verify: bool) -> None:
    path = own(store.folder / version / name)
    size = path.stat().st_size
    os.truncate(path, size - 1)

    problem = f"{version} is damaged: {name} has {size - 1} bytes instead of {size}"
    with pytest.raises(CatalogError, match=problem):
        store.open(version, verify=verify)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("verify", [True, False])
def test_a_missing_file_is_refused(store: CatalogStore, version: str, name: str, verify: bool) -> None:
    (store.folder / version / name).unlink()

    with pytest.raises(CatalogError, match=f"{version} is damaged: {name} is missing"):
        store.open(version, verify=verify)


def test_every_problem_of_a_version_is_named(store: CatalogStore, version: str) -> None:
    (store.folder / version / "hand.npy").unlink()
    os.truncate(own(store.folder / version / ITEM_BYTES), 1)

    with pytest.raises(CatalogError, match=r"hand\.npy is missing; items\.json has 1 bytes"):
        store.open(version)
    assert len(store.verify(version)) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"null", b"7", b"[" * 100_000])
def test_a_manifest_that_is_none_is_refused(store: CatalogStore, version: str, content: bytes) -> None:
    own(store.folder / version / MANIFEST).write_bytes(content)

    with pytest.raises(CatalogError, match=version):
        store.open(version)
    assert len(store.verify(version)) == 1


def test_a_missing_manifest_is_refused(store: CatalogStore, version: str) -> None:
    (store.folder / version / MANIFEST).unlink()

    with pytest.raises(CatalogError, match=f"{version} does not exist"):
        store.open(version)


MANIFEST_DAMAGE: dict[str, Any] = {
    "no files": {"files": None},
    "no file": {"files": {}},
    "a list of files": {"files": []},
    "files without sizes": {"files": {name: {"sha256": ""} for name in FILES}},
    "files that are no objects": {"files": dict.fromkeys(FILES, 7)},
    "no sizes": {"sizes": None},
    "an unknown size": {"sizes": {"videos": 3}},
    "a size that is no number": {"sizes": {"videos": "x", "creators": 1, "cities": 1}},
}


@pytest.mark.parametrize("damage", MANIFEST_DAMAGE)
def test_a_manifest_of_the_wrong_shape_is_refused(store: CatalogStore, version: str, damage: str) -> None:
    path = own(store.folder / version / MANIFEST)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | MANIFEST_DAMAGE[damage]))

    with pytest.raises(CatalogError, match=version):
        store.open(version)


@pytest.mark.parametrize("field", SIZES)
def test_a_changed_size_in_the_manifest_is_refused(store: CatalogStore, version: str, field: str) -> None:
    """The kernels trust it: a wrong one makes them read outside of their arrays."""
    path = own(store.folder / version / MANIFEST)
    manifest = json.loads(path.read_bytes())
    manifest["sizes"][field] += 1
    path.write_text(json.dumps(manifest, indent=1))

    with pytest.raises(CatalogError, match=version):
        store.open(version)


def test_any_changed_bit_of_the_manifest_is_refused(store: CatalogStore, version: str) -> None:
    path = own(store.folder / version / MANIFEST)
    content = path.read_bytes()
    taken = []

    with path.open("r+b", buffering=0) as manifest:  # begun anew each time, the disk would have to follow
        for position in range(len(content)):
            manifest.seek(0)
            manifest.write(flipped(content, position))
            try:
                store.open(version, verify=False)
            except CatalogError:
                continue
            taken.append(position)

    assert [content[max(0, p - 20) : p + 1] for p in taken] == []


@pytest.mark.parametrize("layout", [0, LAYOUT_VERSION + 1, str(LAYOUT_VERSION), None])
def test_another_layout_is_refused(store: CatalogStore, version: str, layout: Any) -> None:
    manifest = json.loads((store.folder / version / MANIFEST).read_bytes()) | {"layout": layout}
    content = json.dumps(manifest).encode()
    other = f"{version.rpartition('-')[0]}-{hashlib.sha256(content).hexdigest()[:16]}"
    (store.folder / version).rename(store.folder / other)
    own(store.folder / other / MANIFEST).write_bytes(content)

    with pytest.raises(CatalogError, match=f"{other} is of another layout than {LAYOUT_VERSION}"):
        store.open(other)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"\x00" * 20])
def test_a_damaged_pointer_names_no_version(store: CatalogStore, version: str, content: bytes) -> None:
    own(store.folder / "CURRENT").write_bytes(content)

    current = store.current()

    assert current is None or current not in store.versions()


# Publishing.


def test_the_pointer_names_a_whole_version_at_every_moment(store: CatalogStore, built: BuiltCatalog) -> None:
    versions = 60
    done, problems, opened = threading.Event(), [], set()

    def read() -> None:
        """Each version once, as soon as the pointer names it: later nothing of it is written any more."""
        while not done.wait(0.0005):
            current = store.current()
            if current is not None and current not in opened:
                opened.add(current)
                problems.extend(store.verify(current))

    store.publish(built)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(1, versions):
            store_of_all = CatalogStore(store.folder, keep=versions)
            store_of_all.publish(later(built, number))
    finally:
        done.set()
        reader.join()

    assert problems == []
    assert len(opened) > 1


def test_a_version_that_cannot_be_written_leaves_the_old_one(
    store: CatalogStore, built: BuiltCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever step of writing fails."""
    first = store.publish(built)
    before = sorted(path.name for path in store.folder.iterdir())
    steps = ["os.fsync", "os.rename", "os.replace", "numpy.save"]

    def no_space(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    for number, step in enumerate(steps, start=1):
        with monkeypatch.context() as patch:
            patch.setattr(step, no_space)
            with pytest.raises(CatalogError, match=r"could not be written to .*: No space left on device"):
                store.publish(later(built, number))
        assert store.current() == first, step
        assert store.verify(first) == []

    assert [name for name in before if not (store.folder / name).exists()] == []
    assert not list(store.folder.glob(".building-*"))


def test_two_versions_of_one_moment_are_two_versions(store: CatalogStore, built: BuiltCatalog) -> None:
    first = store.publish(built)
    built.report.counts["videos"] += 1

    second = store.publish(built)

    assert first != second
    assert store.verify(first) == store.verify(second) == []
    assert store.current() == second


@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged since"])
def test_what_was_published_may_be_published_again(
    store: CatalogStore, built: BuiltCatalog, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    """Two writes that take equally long give one name: a build that took no time stands in for them."""
    monkeypatch.setattr("recommendation_service.catalog.store.time.perf_counter", lambda: 0.0)
    version = store.publish(built)
    if damaged:
        (store.folder / version / ITEM_BYTES).unlink()

    assert store.publish(built) == version

    assert store.verify(version) == []
    assert store.versions() == [version]
    assert store.current() == version
    assert not list(store.folder.glob(".building-*"))


def dead_process() -> int:
    process = get_context("spawn").Process(target=os.getpid)
    process.start()
    process.join()
    assert process.pid is not None
    return process.pid


def leave_over(store: CatalogStore, pid: int) -> list[Path]:
    """What a build leaves that was killed while it wrote, and one that was killed while it pointed."""
    folder, pointer = store.folder / f".building-{pid}", store.folder / f".CURRENT-{pid}"
    folder.mkdir(parents=True)
    (folder / "hand.npy").write_bytes(b"half")
    pointer.write_bytes(b"2026")
    return [folder, pointer]


def test_what_a_killed_build_left_is_removed(store: CatalogStore, built: BuiltCatalog) -> None:
    left = leave_over(store, dead_process())

    store.publish(built)

    assert [path.name for path in left if path.exists()] == []


def test_what_a_killed_build_left_is_removed_before_its_space_is_needed(
    store: CatalogStore, built: BuiltCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a disk that killed builds filled stays full: no further build could be written."""
    folder, _ = leave_over(store, dead_process())
    found: list[bool] = []
    save = np.save

    def note(*arguments: Any, **names: Any) -> None:
        found.append(folder.exists())
        save(*arguments, **names)

    monkeypatch.setattr(np, "save", note)
    store.publish(built)

    assert found[0] is False


def test_the_folder_of_a_build_that_still_runs_is_left_alone(store: CatalogStore, built: BuiltCatalog) -> None:
    folder, _ = leave_over(store, os.getppid())

    store.publish(built)

    assert folder.exists()


def test_a_half_written_version_is_no_version(store: CatalogStore) -> None:
    folder, _ = leave_over(store, os.getppid())
    (folder / MANIFEST).write_text("{}")

    assert store.versions() == []


# The lock.


def test_two_builds_never_overlap(store: CatalogStore) -> None:
    inside, overlaps = [], []

    def build(number: int) -> None:
        for _ in range(50):
            with store.build_lock():
                inside.append(number)
                overlaps.append(len(inside))
                inside.remove(number)

    threads = [threading.Thread(target=build, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert overlaps == [1] * 200


def test_the_lock_is_free_after_a_build_that_failed(store: CatalogStore) -> None:
    with pytest.raises(ZeroDivisionError), store.build_lock():
        raise ZeroDivisionError

    with open(store.folder / "build.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
