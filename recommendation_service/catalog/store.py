"""Catalog versions on disk: written to a temporary name, fsynced, renamed, then pointed at.

A reader sees a whole version or none. CURRENT names the version to serve; a damaged one is refused,
and whoever serves an earlier version goes on with it.
"""

import hashlib
import json
import mmap
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recommendation_service.catalog.item_forms import is_of_form, item_form, reformed
from recommendation_service.core.errors import CatalogError
from recommendation_service.core.files import locked, make_folder, opener
from recommendation_service.model.columns import COLUMNS, LAYOUT_VERSION, SIZES, CatalogArrays, Int64

if TYPE_CHECKING:
    # Whoever only reads catalogs need not load what builds them.
    from recommendation_service.catalog.builder import BuiltCatalog

# The ready-made answers: items.json holds each item's JSON object, one after the other.
ITEM_BYTES = "items.json"
ITEM_OFFSETS = "item_offsets"  # (M + 1,) int64
NAMES = "names.json"
MANIFEST = "manifest.json"
CURRENT = "CURRENT"
TEMPORARY = ".building-"
_VERSION = re.compile(r"[0-9A-Za-z.-]{1,64}")
# A version's name ends with so many digits of its manifest's checksum: the manifest vouches for the files,
# and the name for the manifest.
_DIGITS = 16
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Catalog:
    """An opened version: memory-mapped columns and item JSON, shared by all processes that open it."""

    version: str
    manifest: dict[str, Any]
    arrays: CatalogArrays
    item_offsets: Int64  # (M + 1,)
    item_bytes: memoryview

    def item_json(self, item: int) -> bytes:
        return bytes(self.item_bytes[int(self.item_offsets[item]) : int(self.item_offsets[item + 1])])

    @property
    def built_at(self) -> float:
        """Seconds since 1970; ages of items are as of this moment."""
        return datetime.fromisoformat(self.manifest["built_at"]).timestamp()

    @property
    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = self.manifest["report"]["counts"]
        return counts


class CatalogStore:
    """The folder of catalog versions."""

    def __init__(self, folder: Path, keep: int, item_time_zone: str = "UTC") -> None:
        """``item_time_zone``: of the times in the items of what is opened: Z, which they bear, or another, without."""
        self.folder = folder
        self._keep = keep
        self._item_time_zone = item_time_zone

    def current(self) -> str | None:
        """The version that CURRENT names, or None before the first."""
        try:
            name = (self.folder / CURRENT).read_bytes().strip().decode("ascii", "replace")
        except OSError:
            return None
        return name if _VERSION.fullmatch(name) else None

    def named(self, version: str | None = None) -> str:
        """``version``, or else the current one, for a command.

        Raises CatalogError where there is none, and OSError where the folder may not be looked into.
        """
        version = version or self.current()
        if version is None:
            self.versions()
            raise CatalogError(f"No catalog in {self.folder}: run `recs catalog build`.")
        return version

    def versions(self) -> list[str]:
        """Versions on disk, oldest first. One that is named later than the current one was built by a clock that was
        ahead, and comes before all others."""
        if not self.folder.is_dir():
            return []
        current = self.current() or "~"
        names = {path.parent.name for path in self.folder.glob(f"*/{MANIFEST}")}
        return sorted((name for name in names if name[0] != "."), key=lambda name: (name <= current, name))

    @contextmanager
    def build_lock(self) -> Iterator[None]:
        """Only one process builds at a time; others wait here."""
        with locked(self.folder / "build.lock"):
            yield

    def publish(self, built: "BuiltCatalog", fingerprint: str | None = None) -> str:
        """Write a version, make it the current one, and remove those beyond the kept number.

        Raises CatalogError where it cannot be written (disk full, no permission); what was current stays.
        """
        started = time.perf_counter()
        try:
            make_folder(self.folder)
            self._remove_left_overs()  # before their space is needed
            temporary = self.folder / f"{TEMPORARY}{os.getpid()}"
            make_folder(temporary)
            try:
                files = _write_files(temporary, built)
                built.report.write_milliseconds = round((time.perf_counter() - started) * 1000, 1)
                manifest = {
                    "layout": LAYOUT_VERSION,
                    "built_at": built.built_at.isoformat(),
                    "policy_version": built.policy_version,
                    "policy_digest": built.policy_digest,
                    "fingerprint": fingerprint,
                    "items": item_form(built.item_time_zone),
                    "sizes": {name: getattr(built.arrays, name) for name in SIZES},
                    "files": files,
                    "report": built.report.as_json(),
                }
                described = _write(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
                version = f"{built.built_at.strftime('%Y%m%dT%H%M%S.%fZ')}-{described['sha256'][:_DIGITS]}"
                _sync_folder(temporary)
                self._put(temporary, version)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            self.point_at(version)
        except OSError as error:
            raise CatalogError(
                f"the catalog could not be written to {self.folder}: {error.strerror or error}"
            ) from error
        self._remove_old()
        return version

    def _put(self, temporary: Path, version: str) -> None:
        """Give what was written its name. A version of that name is the same to the byte, unless it was damaged."""
        folder = self.folder / version
        if folder.exists():
            whole = not self.verify(version)
            shutil.rmtree(temporary if whole else folder)
            if whole:
                return
        os.rename(temporary, folder)

    def point_at(self, version: str) -> None:
        """Make ``version`` the current one, atomically."""
        temporary = self.folder / f".{CURRENT}-{os.getpid()}"
        _write(temporary, f"{version}\n".encode("ascii"))
        os.replace(temporary, self.folder / CURRENT)
        _sync_folder(self.folder)

    def open(self, version: str, *, verify: bool = True) -> Catalog:
        """Map a version. Raises CatalogError where it is missing, damaged, or of another layout.

        Items of another form than this program and its settings give are rewritten, in memory of this process.
        """
        folder = self.folder / version
        manifest = self.manifest(version)
        problems = _problems(folder, manifest, verify)
        if problems:
            raise CatalogError(f"catalog version {version} is damaged: {'; '.join(problems)}")
        try:
            columns: dict[str, Any] = {name: _column(folder, name) for name in COLUMNS}
            columns |= {name: int(manifest["sizes"][name]) for name in SIZES}
            arrays = CatalogArrays(**columns)
            offsets, items = _column(folder, ITEM_OFFSETS), _map(folder / ITEM_BYTES)
            if not is_of_form(manifest, self._item_time_zone):
                offsets, items = reformed(offsets, items, manifest, self._item_time_zone)
            return Catalog(version, manifest, arrays, offsets, items)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CatalogError(f"catalog version {version} cannot be read: {error}") from error

    def verify(self, version: str) -> list[str]:
        """What is wrong with a version; empty where nothing is."""
        try:
            return _problems(self.folder / version, self.manifest(version), True)
        except CatalogError as error:
            return [str(error)]

    def manifest(self, version: str) -> dict[str, Any]:
        """The version's manifest. Raises CatalogError where it is missing, changed, or of another layout."""
        try:
            content = (self.folder / version / MANIFEST).read_bytes()
        except FileNotFoundError:
            raise CatalogError(f"catalog version {version} does not exist") from None
        except OSError as error:
            raise CatalogError(f"catalog version {version} cannot be read: {error.strerror}") from error
        if not version.endswith(f"-{hashlib.sha256(content).hexdigest()[:_DIGITS]}"):
            raise CatalogError(f"catalog version {version} is damaged: {MANIFEST} does not match the version's name")
        manifest = json.loads(content)
        if not isinstance(manifest, dict) or manifest.get("layout") != LAYOUT_VERSION:
            raise CatalogError(f"catalog version {version} is of another layout than {LAYOUT_VERSION}")
        return manifest

    def names(self, version: str) -> dict[str, Any]:
        """Texts of tokens and cities by number."""
        names: dict[str, Any] = json.loads((self.folder / version / NAMES).read_bytes())
        return names

    def _remove_old(self) -> None:
        """Keep the newest versions and the current one; processes that map a removed one keep it."""
        current = self.current()
        for version in self.versions()[: -self._keep]:
            if version != current:
                shutil.rmtree(self.folder / version, ignore_errors=True)

    def _remove_left_overs(self) -> None:
        """What builds left that were killed."""
        for pattern in (f"{TEMPORARY}*", f".{CURRENT}-*"):
            for left_over in self.folder.glob(pattern):
                pid = left_over.name.rpartition("-")[2]
                if pid == str(os.getpid()) or not os.path.exists(f"/proc/{pid}"):
                    if left_over.is_dir():
                        shutil.rmtree(left_over, ignore_errors=True)
                    else:
                        left_over.unlink(missing_ok=True)


def _write_files(folder: Path, built: "BuiltCatalog") -> dict[str, Any]:
    files = {}
    for name in COLUMNS:
        files[f"{name}.npy"] = _save(folder / f"{name}.npy", getattr(built.arrays, name))
    sizes = np.array([len(body) for body in built.item_bodies], np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    files[f"{ITEM_OFFSETS}.npy"] = _save(folder / f"{ITEM_OFFSETS}.npy", offsets)
    files[ITEM_BYTES] = _write(folder / ITEM_BYTES, b"".join(built.item_bodies) or b" ")
    files[NAMES] = _write(folder / NAMES, json.dumps(built.names, ensure_ascii=False).encode())
    return files


def _save(path: Path, array: Any) -> dict[str, Any]:
    with open(path, "wb", opener=opener()) as file:
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return _described(path)


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


def _problems(folder: Path, manifest: dict[str, Any], verify: bool) -> list[str]:
    files = manifest.get("files", {})
    needed = [*(f"{column}.npy" for column in COLUMNS), f"{ITEM_OFFSETS}.npy", ITEM_BYTES]
    problems = [f"{name} is not in the manifest" for name in needed if name not in files]
    for name, described in files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != described["bytes"]:
            problems.append(f"{name} has {path.stat().st_size} bytes instead of {described['bytes']}")
        elif verify and _sha256(path) != described["sha256"]:
            problems.append(f"{name} does not match its checksum")
    return problems


def _column(folder: Path, name: str) -> Any:
    """A plain array over the mapping: np.memmap itself is slower to hand to a kernel."""
    array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    expected = COLUMNS.get(name, (np.int64, 1))
    if array.dtype != expected[0] or array.ndim != expected[1]:
        raise ValueError(f"{name} is {array.dtype} of {array.ndim} dimensions")
    return np.asarray(array)


def _map(path: Path) -> memoryview:
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
