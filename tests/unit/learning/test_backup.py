"""A backup of what was learned and of the policies, and putting it back."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from recommendation_service import cli
from recommendation_service.core import place
from recommendation_service.core.errors import SourceError
from recommendation_service.learning import backup
from recommendation_service.learning.backup import BackupRefused, Summary, back_up, put_back
from recommendation_service.learning.ledger import FILE
from recommendation_service.policies.evidence import OPEN, EvidenceFiles, Look
from recommendation_service.policies.experiment import CURRENT_VERSION, Arm
from recommendation_service.policies.experiments import start_experiment, stop_experiment
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.policy import read_policy_file
from recommendation_service.policies.store import POLICY, PolicyStore
from tests.support.events import HAPPENED_MS, feed
from tests.unit.learning.test_learner import World, shown

DEED = Deed(datetime(2026, 11, 29, 10, tzinfo=UTC), "recs learn restore", "")


def teach(world: World, slots: int = 1) -> None:
    served = feed(6)
    at = {"happened_ms": HAPPENED_MS + 5_000, "received_ms": HAPPENED_MS + 6_000}
    world.write([served, *(shown(served, place, **at) for place in (0, 1, 3, 4)[:slots])])


def store_of(world: World) -> PolicyStore:
    return PolicyStore(world.settings.policy_dir, 10)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two shown items are learned, a version of them is published, and a person's is served."""
    world = World(tmp_path / "data")
    teach(world, 2)
    learner = world.learner()
    learner.learn_all()
    learner.close()
    store_of(world).publish(read_policy_file().replace(b"alpha = 1.3", b"alpha = 1.5"), None, DEED)
    return world


@pytest.fixture
def file(world: World, tmp_path: Path) -> Path:
    path = tmp_path / "backup.tar.gz"
    summary = back_up(world.settings, path, DEED.moment)
    assert summary == Summary("2026-11-29T10:00:00+00:00", 2, store_of(world).versions(), store_of(world).current())
    return path


def restore(world: World, file: Path, *, only_check: bool = False) -> Summary:
    return put_back(world.settings, world.file, file, None, DEED, only_check=only_check)


def test_on_an_empty_disk_all_is_as_it_was_and_learning_goes_on(world: World, file: Path, tmp_path: Path) -> None:
    other = World(tmp_path / "other")
    found = restore(other, file)
    assert (found.slots, found.kept, found.serves_it) == (2, None, True)
    assert store_of(other).served() == store_of(world).served()
    assert set(store_of(other).versions()) == set(store_of(world).versions())
    assert [entry.did for entry in store_of(other).journal.entries()] == ["publish", "restore"]
    teach(other)
    assert other.learn().totals.slots == {"AU": 3}
    assert sorted(path.name for path in other.settings.learning_dir.iterdir()) == [FILE]


def look(words: str) -> Look:
    return Look("2026-11-29T09:00:00", "ana", "starting-2", OPEN, words, 9, 3, 0.975, 0.1, None, None, None, 9.0, 1.0)


def test_looks_experiments_and_the_journal_come_back_and_nothing_that_is_here_is_lost(
    world: World, tmp_path: Path
) -> None:
    store, path, other = store_of(world), tmp_path / "backup.tar.gz", World(tmp_path / "other")
    arms = [Arm("now", CURRENT_VERSION, 0.5), Arm("same", str(store.current()), 0.5)]
    for name in ("first", "second"):
        start_experiment(store, name, arms, DEED, salt=None, expect=None, until_now=read_policy_file())
        if name == "first":
            stop_experiment(store, name, DEED)
    EvidenceFiles(store.folder).add("a-version", look("as it was"))
    back_up(world.settings, path, DEED.moment)
    EvidenceFiles(other.settings.policy_dir).add("a-version", look("since"))

    assert restore(other, path).serves_it
    again = store_of(other)
    assert again.experiment() == store.experiment()
    assert [one.experiment.name for one in again.ended_experiments()] == ["first"]
    assert [one.did for one in again.journal.entries()] == [*(one.did for one in store.journal.entries()), "restore"]
    told = EvidenceFiles(again.folder)
    assert [one.words for one in told.of("a-version")] == ["as it was", "since"]

    restore(other, path)
    assert [one.words for one in told.of("a-version")] == ["as it was", "since"], "a second time adds nothing"


def test_what_was_learned_since_is_kept_aside_and_what_is_served_stays(world: World, file: Path) -> None:
    teach(world)
    assert world.learn().totals.slots == {"AU": 3}
    later = store_of(world).publish(read_policy_file(), None, DEED)
    found = restore(world, file)
    assert found.kept is not None
    assert not found.serves_it
    assert store_of(world).current() == later
    assert world.learn().totals.slots == {"AU": 3}, "the log has the rest still, from where the backup's mark was"
    assert Path(found.kept).exists()


def test_a_backup_is_made_while_a_learner_runs_and_not_put_back_then(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(world.settings.data_dir))
    path = tmp_path / "backup.tar.gz"
    learner = world.learner()
    try:
        assert "2 shown items, and 2 policy versions" in run("backup", str(path)).stdout
        assert "learn" in str(run("restore", str(path)).exception)
        assert "can be put back" in run("restore", str(path), "--check").stdout
    finally:
        learner.close()
    assert json.loads(run("restore", str(path), "--json").stdout)["slots"] == 2
    assert oct(path.stat().st_mode & 0o007) == "0o0", "it says what users did"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["learn", *arguments])


def changed(file: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Another content of one member, the others as they were."""
    members: dict[str, bytes] = {}
    with tarfile.open(file) as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member)
            assert content is not None
            members[member.name] = content.read()
    members[name] = change(members[name])
    with tarfile.open(file, "w:gz") as archive:
        for member_name, content_of in members.items():
            info = tarfile.TarInfo(member_name)
            info.size = len(content_of)
            archive.addfile(info, io.BytesIO(content_of))


def manifest_with(**fields: Any) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({**json.loads(content), **fields}).encode()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda file: file.write_bytes(b"no backup at all"), "no backup"),
        (lambda file: os.truncate(file, file.stat().st_size // 2), "damaged"),
        (lambda file: changed(file, FILE, lambda content: content[:-9] + b"x" + content[-8:]), "checksum"),
        (lambda file: changed(file, backup.MANIFEST, manifest_with(form=7)), "another release"),
        (lambda file: changed(file, backup.MANIFEST, manifest_with(database="shop")), "of the database shop"),
        (lambda file: changed(file, backup.MANIFEST, manifest_with(files={"../../x": {"bytes": 1}})), "no backup"),
    ],
)
def test_what_is_no_whole_backup_of_this_database_is_refused_and_nothing_is_changed(
    world: World, file: Path, spoil: Callable[[Path], object], told: str
) -> None:
    owner = place.Owner(place.database_name(world.settings.source_url), "a" * 32)
    (world.settings.data_dir / place.FILE).write_text(json.dumps(vars(owner)))
    before = (world.settings.learning_dir / FILE).read_bytes()
    spoil(file)
    with pytest.raises(BackupRefused, match=told):
        restore(world, file)
    assert (world.settings.learning_dir / FILE).read_bytes() == before


def test_a_version_that_was_damaged_before_it_came_into_the_backup_is_refused(world: World, file: Path) -> None:
    version = store_of(world).versions()[0]
    damaged = file.with_name("damaged.tar.gz")
    shutil.copyfile(file, damaged)
    name = f"policies/{version}/{POLICY}"
    content = b"nothing"
    described = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def lying(manifest: bytes) -> bytes:
        found = json.loads(manifest)
        found["files"][name] = described
        return json.dumps(found).encode()

    changed(damaged, name, lambda _: content)
    changed(damaged, backup.MANIFEST, lying)
    with pytest.raises(BackupRefused, match=version):
        restore(world, damaged)


class Killed(BaseException):
    pass


def test_killed_at_any_moment_the_sums_are_the_ones_or_the_others_and_the_same_command_goes_on(
    world: World, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(world)
    (version, *_) = store_of(world).versions()
    left = 0

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return real(*arguments, **named)

        return call

    for number in range(1, 100):
        assert world.learn().totals.slots == {"AU": 3}, "as it was, or the backup's and what the log has since"
        shutil.rmtree(world.settings.policy_dir / version, ignore_errors=True)
        left = number
        with monkeypatch.context() as patch:
            for owner, name in ((os, "link"), (os, "rename"), (Path, "replace"), (Path, "rename"), (Path, "unlink")):
                patch.setattr(owner, name, dying(getattr(owner, name)))
            for name in ("take_in", "bring_back"):
                patch.setattr(PolicyStore, name, dying(getattr(PolicyStore, name)))
            try:
                restore(world, file)
                break
            except Killed:
                pass
    assert number > 5, "it died at several moments"
    assert store_of(world).verify(version) == []


def test_nothing_learned_yet_is_a_backup_too_and_a_full_disk_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    assert "nothing learned, and 0 policy versions" in run("backup", str(tmp_path / "file")).stdout
    assert "nothing learned" in run("restore", str(tmp_path / "file")).stdout
    assert isinstance(done := run("backup", str(tmp_path / "no" / "folder")).exception, SourceError)
    assert "No such file" in str(done)
    assert "No such file" in str(run("restore", str(tmp_path / "nothing")).exception)
