"""What cannot be made again, in one file: the sums, with the feeds that are waited for, and the policies, with what was
found of them and who changed what. And back.

A backup is made while all runs. Putting it back checks everything first, replaces the sums by one rename, and keeps
what they were; policy versions, looks at them and experiments that are over are only added. A process that is killed on
the way leaves the sums as they were or as they are to be, and the same command goes on.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recommendation_service import __version__
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import PolicyError, SourceError
from recommendation_service.core.files import create, locked, make_folder, opener
from recommendation_service.core.place import owner_of
from recommendation_service.learning.format import LearningFile
from recommendation_service.learning.ledger import FILE, Ledger, LedgerRefused
from recommendation_service.learning.sums import Sums
from recommendation_service.policies.choice import begun_with
from recommendation_service.policies.evidence import FOLDER as EVIDENCE
from recommendation_service.policies.fleet import FleetPolicies
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.policy import Policy, load_policy, parse_policy
from recommendation_service.policies.store import CHANGE_LOCK, PolicyStore

FORM = 1
MANIFEST = "backup.json"
POLICIES = "policies"
_ASIDE = ".restoring-"


class BackupRefused(SourceError):
    """It is no backup, damaged, another release's or another database's; nothing was changed."""


@dataclass(frozen=True)
class Summary:
    """Of a backup, or of what was put back."""

    made_at: str
    slots: int | None  # shown items that the sums are of; None: there are none
    versions: list[str]
    served: str | None  # of the policies, in the backup
    kept: str | None = None  # where the sums are that were replaced
    serves_it: bool = False  # whether what was served in the backup is served now


def back_up(settings: Settings, path: Path, moment: datetime) -> Summary:
    """Write a backup, whole or not at all. Raises SourceError, OSError."""
    with _folder_aside(settings) as folder:
        slots = _copy_ledger(settings.learning_dir / FILE, folder / FILE)
        store = PolicyStore(settings.policy_dir, settings.policy_keep)
        versions, served = _copy_policies(store, folder / POLICIES)
        files = {
            str(found.relative_to(folder)): {"bytes": found.stat().st_size, "sha256": _sha256(found)}
            for found in sorted(folder.rglob("*"))
            if found.is_file()
        }
        owner = owner_of(settings.data_dir)
        summary = Summary(moment.isoformat(timespec="seconds"), slots, versions, served)
        manifest = {
            "form": FORM,
            "release": __version__,
            "database": owner.database if owner else None,
            "identity": owner.identity if owner else None,
            "made_at": summary.made_at,
            "slots": slots,
            "versions": versions,
            "served": served,
            "files": files,
        }
        temporary = path.with_name(f".{path.name}-{os.getpid()}")
        try:
            with open(temporary, "wb", opener=opener(0o660)) as file:
                with tarfile.open(fileobj=file, mode="w:gz") as archive:
                    content = json.dumps(manifest, indent=1).encode()
                    member = tarfile.TarInfo(MANIFEST)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                    for name in files:
                        archive.add(folder / name, name, recursive=False)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return summary


def put_back(
    settings: Settings, file: LearningFile, path: Path, fleet: FleetPolicies | None, deed: Deed, *, only_check: bool
) -> Summary:
    """Put a backup in the place of what was learned, while nobody learns: the caller holds the learner's name.

    Raises BackupRefused, and nothing was changed; PolicyError, OSError: so much as was is whole, and this may be called
    again.
    """
    with _folder_aside(settings) as folder:
        manifest = _unpack(path, folder)
        _check_database(settings, manifest)
        there = PolicyStore(folder / POLICIES, settings.policy_keep)
        store = PolicyStore(settings.policy_dir, settings.policy_keep, fleet)
        versions = manifest["versions"]
        problems = [f"policy version {name}: {problem}" for name in versions for problem in there.verify(name)]
        if problems:
            raise BackupRefused(f"{path}: {'; '.join(problems)}.")
        has_sums = (folder / FILE).exists()
        if has_sums:
            _check_ledger(settings, file, folder, store, there)
        summary = Summary(manifest["made_at"], manifest["slots"], manifest["versions"], manifest["served"])
        if only_check:
            return summary
        here = set(store.versions())
        for version in manifest["versions"]:
            if version not in here:
                store.take_in(version, there.contents(version))
        store.take_in_told(there.folder)
        serves_it = store.bring_back(there.journal.entries(), there.served(), deed)
        kept = _replace_ledger(settings.learning_dir, folder / FILE, deed.moment) if has_sums else None
    return Summary(**{**vars(summary), "kept": str(kept) if kept else None, "serves_it": serves_it})


@contextmanager
def _folder_aside(settings: Settings) -> Iterator[Path]:
    """Beside what was learned, so that a rename is enough; what killed processes left goes."""
    make_folder(settings.data_dir)
    make_folder(settings.learning_dir)
    for left_over in settings.learning_dir.glob(f"{_ASIDE}*"):
        if not os.path.exists(f"/proc/{left_over.name.removeprefix(_ASIDE)}"):
            shutil.rmtree(left_over, ignore_errors=True)
    folder = settings.learning_dir / f"{_ASIDE}{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy_ledger(path: Path, copy: Path) -> int | None:
    """As it is at one moment, whoever writes to it meanwhile. Raises SourceError, OSError."""
    if not path.exists():
        return None
    try:
        with open(create(copy), "rb"):
            pass
        with (
            contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
            [[found]] = target.execute("PRAGMA quick_check(1)")
            if found != "ok":
                raise SourceError(f"No backup was made: {path} is damaged ({found}).")
            target.execute("PRAGMA journal_mode = DELETE")  # one file
            [[totals]] = target.execute("SELECT value FROM known WHERE name = 'totals'")
            return int(sum(json.loads(totals)["slots"].values()))
    except sqlite3.Error as error:
        raise SourceError(f"No backup was made: {path} cannot be read ({error}).") from error


def _copy_policies(store: PolicyStore, copy: Path) -> tuple[list[str], str | None]:
    """The versions that are whole, and what is served, as they are at one moment. Raises OSError."""
    make_folder(copy)
    if not store.folder.is_dir():
        return [], None
    versions = []
    with locked(store.folder / CHANGE_LOCK):
        for version in store.versions():
            with contextlib.suppress(PolicyError):
                files = store.contents(version)
                make_folder(copy / version)
                for name, content in files.items():
                    (copy / version / name).write_bytes(content)
                versions.append(version)
        make_folder(copy / EVIDENCE)
        for path in [*store.what_is_served(), *(store.folder / EVIDENCE).glob("*")]:
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(path, copy / path.relative_to(store.folder))
        return versions, store.current()


def _unpack(path: Path, folder: Path) -> dict[str, Any]:
    """What the backup says of itself, once every file is as it says. Raises BackupRefused, OSError."""
    try:
        with tarfile.open(path) as archive:
            manifest: dict[str, Any] = json.loads(_content(archive, MANIFEST))
            if manifest["form"] != FORM:
                told = f"its form is {manifest['form']}, and this one's {FORM}"
                raise BackupRefused(f"{path} is of another release: {told}.")
            for name, described in manifest["files"].items():
                target = (folder / name).resolve()
                if not target.is_relative_to(folder.resolve()):
                    raise BackupRefused(f"{path} is no backup: it has a file {name}.")
                content = _content(archive, name)
                if len(content) != described["bytes"] or hashlib.sha256(content).hexdigest() != described["sha256"]:
                    raise BackupRefused(f"{path} is damaged: {name} does not match its checksum.")
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "wb", opener=opener()) as file:
                    file.write(content)
                    os.fsync(file.fileno())
            return manifest
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno is not None:
            raise
        raise BackupRefused(f"{path} is damaged: {error}.") from error
    except (tarfile.TarError, EOFError, KeyError, ValueError, TypeError) as error:
        raise BackupRefused(f"{path} is damaged, or no backup of `recs learn backup`: {error}.") from error


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file")
    return file.read()


def _check_database(settings: Settings, manifest: dict[str, Any]) -> None:
    """Only what is disproved is refused, as everywhere (core/place.py)."""
    owner = owner_of(settings.data_dir)
    if owner is None or manifest["database"] is None:
        return
    differs = owner.identity and manifest["identity"] and owner.identity != manifest["identity"]
    if owner.database != manifest["database"] or differs:
        raise BackupRefused(
            f"The backup is of the database {manifest['database']}, and {settings.data_dir} is {owner}'s."
        )


def _check_ledger(settings: Settings, file: LearningFile, folder: Path, store: PolicyStore, there: PolicyStore) -> None:
    """As the learner would open it; and have what it writes take the place of what the fleet has of this machine.

    Raises BackupRefused, OSError.
    """
    try:
        if settings.policy_file is not None:
            policy = load_policy(settings.policy_file)
        elif (version := store.current()) is not None:
            policy = store.open(version)
        elif (version := there.current()) is not None:
            policy = there.open(version)
        else:
            policy = Policy(parse_policy(begun_with(settings), "the policy that is begun with"))
        now = datetime.now(UTC).timestamp()
        ledger = Ledger(
            folder, Sums(policy.file.kind_names, policy.feature_names, file.half_life_seconds), now, file.person_slots
        )
    except (LedgerRefused, PolicyError) as error:
        raise BackupRefused(f"What the backup has cannot be used here: {error}") from error
    try:
        ledger.fleet.identity.takes_over = True
        with ledger.step():
            ledger.fleet.keep_identity()
    finally:
        ledger.close()


def _replace_ledger(folder: Path, new: Path, moment: datetime) -> Path | None:
    """Where what it replaces is now; None: there was nothing. Raises OSError."""
    path = folder / FILE
    kept = path.with_stem(f"{path.stem}-{moment:%Y%m%dT%H%M%SZ}")
    if not path.exists():
        new.rename(path)
        return None
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for suffix in ("-wal", "-shm"):  # of a file that is damaged
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{kept}{suffix}")
    kept.unlink(missing_ok=True)
    os.link(path, kept)  # so that there is one at every moment
    new.replace(path)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return kept


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
