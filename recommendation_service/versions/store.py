"""A folder of versions: written to a temporary name, fsynced, renamed, then pointed at.

A reader sees a whole version or none. CURRENT names the version to serve; a damaged one is refused,
and whoever serves an earlier version goes on with it.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recommendation_service.core.errors import VersionError
from recommendation_service.core.files import make_folder, opener

MANIFEST = "manifest.json"
CURRENT = "CURRENT"
TEMPORARY = ".building-"
_VERSION = re.compile(r"[0-9A-Za-z.-]{1,64}")
# A version's name ends with so many digits of its manifest's checksum: the manifest vouches for the files,
# and the name for the manifest.
_DIGITS = 16
_CHUNK = 1 << 22


class NewVersion:
    """A version that is being written: each of its files is fsynced, and described for the manifest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files: dict[str, dict[str, Any]] = {}

    def save(self, name: str, array: Any) -> None:
        """An array as NAME.npy. Raises OSError."""
        path = self._folder / f"{name}.npy"
        with open(path, "wb", opener=opener()) as file:
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        self.files[path.name] = _described(path)

    def write(self, name: str, content: bytes) -> None:
        """Raises OSError."""
        self.files[name] = _write(self._folder / name, content)


class VersionStore:
    """What catalogs and policies have in common; each says what its versions are called, and what they must have."""

    what: ClassVar[str]
    error: ClassVar[type[VersionError]]
    layout: ClassVar[int]  # of the manifest: versions of another one are refused
    needed: ClassVar[Sequence[str]]  # files without which a version is damaged

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def current(self) -> str | None:
        """The version that CURRENT names, or None before the first."""
        return self.pointer(CURRENT)

    def pointer(self, name: str) -> str | None:
        """The version that a file of the folder names."""
        try:
            version = (self.folder / name).read_bytes().strip().decode("ascii", "replace")
        except OSError:
            return None
        return version if _VERSION.fullmatch(version) else None

    def versions(self) -> list[str]:
        """Versions on disk, oldest first, by the moments that they are named by."""
        if not self.folder.is_dir():
            return []
        names = (path.parent.name for path in self.folder.glob(f"*/{MANIFEST}"))
        return sorted(name for name in names if name[0] != ".")

    def add(self, moment: datetime, fill: Callable[[NewVersion], dict[str, Any]]) -> str:
        """Write a version of ``moment``, which nobody serves yet; its name.

        ``fill`` writes its files and gives what the manifest says beside them. Raises ``error`` where it cannot be
        written (disk full, no permission).
        """
        with self._made() as temporary:
            new = NewVersion(temporary)
            manifest = {"layout": self.layout, **fill(new), "files": new.files}
            described = _write(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
            version = f"{moment.strftime('%Y%m%dT%H%M%S.%fZ')}-{described['sha256'][:_DIGITS]}"
            _sync_folder(temporary)
            self._put(temporary, version)
        return version

    def contents(self, version: str) -> dict[str, bytes]:
        """The files of a whole version, the manifest included. Raises ``error``."""
        manifest = self.check(version)
        try:
            return {name: (self.folder / version / name).read_bytes() for name in (*manifest["files"], MANIFEST)}
        except OSError as error:
            raise self.error(f"{self.what} version {version} cannot be read: {error.strerror}") from error

    def take_in(self, version: str, files: dict[str, bytes]) -> None:
        """Keep a version that was made elsewhere, once it is as its name and its manifest say. Raises ``error``."""
        names = [name for name in files if Path(name).name != name or name[0] == "."]
        if names or not _VERSION.fullmatch(version) or version[0] == ".":
            raise self.error(f"{self.what} version {version} is damaged: it has files that no version has")
        with self._made() as temporary:
            for name, content in files.items():
                _write(temporary / name, content)
            self._refuse_damaged(temporary, version)
            _sync_folder(temporary)
            self._put(temporary, version)

    @contextlib.contextmanager
    def _made(self) -> Iterator[Path]:
        """A folder in which a version is written, gone again where that fails. Raises ``error`` for an OSError."""
        try:
            make_folder(self.folder)
            self._remove_left_overs()  # before their space is needed
            temporary = self.folder / f"{TEMPORARY}{os.getpid()}"
            make_folder(temporary)
            try:
                yield temporary
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            _sync_folder(self.folder)
        except OSError as error:
            raise self._not_written(error) from error

    def _refuse_damaged(self, folder: Path, version: str) -> None:
        """Of another folder than the one that has the version's name."""
        manifest = self._manifest_in(folder, version)
        if problems := self._problems_in(folder, manifest, True):
            raise self.error(f"{self.what} version {version} is damaged: {'; '.join(problems)}")

    def _not_written(self, error: OSError) -> VersionError:
        return self.error(f"the {self.what} could not be written to {self.folder}: {error.strerror or error}")

    def _put(self, temporary: Path, version: str) -> None:
        """Give what was written its name. A version of that name is the same to the byte, unless it was damaged."""
        folder = self.folder / version
        if folder.exists():
            whole = not self.verify(version)
            shutil.rmtree(temporary if whole else folder)
            if whole:
                return
        os.rename(temporary, folder)

    def point_at(self, version: str, name: str = CURRENT) -> None:
        """Make ``version`` the one that a file of the folder names, the current one, atomically. Raises ``error``."""
        temporary = self.folder / f".{name}-{os.getpid()}"
        try:
            _write(temporary, f"{version}\n".encode("ascii"))
            os.replace(temporary, self.folder / name)
            _sync_folder(self.folder)
        except OSError as error:
            raise self._not_written(error) from error

    def verify(self, version: str) -> list[str]:
        """What is wrong with a version; empty where nothing is."""
        try:
            return self._problems(version, self.manifest(version), True)
        except VersionError as error:
            return [str(error)]

    def manifest(self, version: str) -> dict[str, Any]:
        """The version's manifest. Raises ``error`` where it is missing, changed, or of another layout."""
        return self._manifest_in(self.folder / version, version)

    def _manifest_in(self, folder: Path, version: str) -> dict[str, Any]:
        what = f"{self.what} version {version}"
        try:
            content = (folder / MANIFEST).read_bytes()
        except FileNotFoundError:
            raise self.error(f"{what} does not exist") from None
        except OSError as error:
            raise self.error(f"{what} cannot be read: {error.strerror}") from error
        if not version.endswith(f"-{hashlib.sha256(content).hexdigest()[:_DIGITS]}"):
            raise self.error(f"{what} is damaged: {MANIFEST} does not match the version's name")
        manifest = json.loads(content)
        if not isinstance(manifest, dict) or manifest.get("layout") != self.layout:
            raise self.error(f"{what} is of another layout than {self.layout}")
        return manifest

    def check(self, version: str, *, every_byte: bool = True) -> dict[str, Any]:
        """The manifest of a version whose files are whole. Raises ``error`` with everything that is wrong."""
        manifest = self.manifest(version)
        problems = self._problems(version, manifest, every_byte)
        if problems:
            raise self.error(f"{self.what} version {version} is damaged: {'; '.join(problems)}")
        return manifest

    def _problems(self, version: str, manifest: dict[str, Any], every_byte: bool) -> list[str]:
        return self._problems_in(self.folder / version, manifest, every_byte)

    def _problems_in(self, folder: Path, manifest: dict[str, Any], every_byte: bool) -> list[str]:
        files = manifest.get("files", {})
        problems = [f"{name} is not in the manifest" for name in self.needed if name not in files]
        for name, described in files.items():
            path = folder / name
            if not path.is_file():
                problems.append(f"{name} is missing")
            elif path.stat().st_size != described["bytes"]:
                problems.append(f"{name} has {path.stat().st_size} bytes instead of {described['bytes']}")
            elif every_byte and _sha256(path) != described["sha256"]:
                problems.append(f"{name} does not match its checksum")
        return problems

    def remove_old(self, held: Collection[str | None] = ()) -> None:
        """Keep the newest versions, the current one and those that are ``held``; who maps a removed one keeps it."""
        stay = {self.current(), *held}
        for version in self.versions()[: -self._keep]:
            if version not in stay:
                shutil.rmtree(self.folder / version, ignore_errors=True)

    def _remove_left_overs(self) -> None:
        """What processes left that were killed while they wrote."""
        for pattern in (f"{TEMPORARY}*", ".[A-Z]*-*"):  # versions, and files that name one
            for left_over in self.folder.glob(pattern):
                pid = left_over.name.rpartition("-")[2]
                if pid == str(os.getpid()) or not os.path.exists(f"/proc/{pid}"):
                    if left_over.is_dir():
                        shutil.rmtree(left_over, ignore_errors=True)
                    else:
                        left_over.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> dict[str, Any]:
    with open(path, "wb", opener=opener()) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return _described(path)


def _described(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
