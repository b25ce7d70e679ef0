"""The LMDB file of what users have seen: opened whole, or begun anew.

Nothing of it is synced, so after a crash of the machine it is not trusted. One that is damaged is moved aside.
"""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import lmdb
import structlog

from recommendation_service.core.files import NOT_FOR_OTHERS, create, make_folder, write_whole
from recommendation_service.memory.disk_room import keeps_room

log = structlog.get_logger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
BOOT_FILE = "boot"
LOCK_FILE = "lock"
FOLDER = "lmdb"
DAMAGED_FOLDER = "damaged"  # what was moved aside last, for whoever wants to look into it
FORMAT = "3"
READABLE = ("2", FORMAT)
DAMAGES = (
    lmdb.InvalidError,
    lmdb.CorruptedError,
    lmdb.VersionMismatchError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.ProblemError,
    lmdb.BadTxnError,  # what a look at damaged pages leaves
)


class FileId(NamedTuple):
    """Which file it is. Whoever opened the same content beside another lock file writes to it unhindered."""

    device: int
    content: int  # inodes
    lock: int


class OpenedFile(NamedTuple):
    environment: lmdb.Environment
    identity: FileId
    was_damaged: bool  # the one before


def open_file(folder: Path, limit_bytes: int, damaged: FileId | None) -> OpenedFile:
    """Under the lock. ``damaged``: not that file, which was found to be. Raises OSError, lmdb.Error."""
    _distrust_after_a_crash(folder)
    there = file_id(folder)
    was_damaged = damaged is not None and there is not None and there.content == damaged.content
    if was_damaged:
        _move_aside(folder, "an access failed")
    try:
        environment = _open(folder / FOLDER, limit_bytes)
    except DAMAGES as error:
        _move_aside(folder, str(error))
        was_damaged, environment = True, _open(folder / FOLDER, limit_bytes)
    identity = file_id(folder)
    if identity is None:
        raise OSError(f"{folder / FOLDER} is gone")
    return OpenedFile(environment, identity, was_damaged)


def file_id(folder: Path) -> FileId | None:
    """Which file is there now."""
    try:
        content, lock = (folder / FOLDER / "data.mdb").stat(), (folder / FOLDER / "lock.mdb").stat()
    except OSError:
        return None
    return FileId(content.st_dev, content.st_ino, lock.st_ino)


def _open(folder: Path, limit_bytes: int) -> lmdb.Environment:
    """Raises one of DAMAGES for a file that was cut off: to read beyond its end would end the process."""
    make_folder(folder)
    file = folder / "data.mdb"
    for name in (file, folder / "lock.mdb"):  # LMDB would make them as the umask wants, and as root as root's
        os.close(create(name, most=NOT_FOR_OTHERS))
    there = file.stat().st_size if file.exists() else 0
    environment = lmdb.open(
        str(folder),
        # Never less than there is: a process with a lower limit would else cut off what others have mapped.
        map_size=max(limit_bytes, there),
        max_dbs=5,
        max_readers=2048,
        sync=False,
        metasync=False,
        readahead=False,
        meminit=False,
        writemap=keeps_room(folder),
    )
    used = int(environment.info()["last_pgno"] + 1) * int(environment.stat()["psize"])
    if there and there < used:
        environment.close()
        raise lmdb.CorruptedError(f"the file has {there} bytes, of which {used} are in use")
    return environment


def _move_aside(folder: Path, reason: str) -> None:
    log.error(
        "what users have seen is damaged: it is begun anew, and read again from recs_events as users come",
        reason=reason,
        moved_to=str(folder / DAMAGED_FOLDER),
    )
    shutil.rmtree(folder / DAMAGED_FOLDER, ignore_errors=True)
    (folder / FOLDER).rename(folder / DAMAGED_FOLDER)


def _distrust_after_a_crash(folder: Path) -> None:
    """Begin anew where the machine has been started since: what was not synced may be half there."""
    try:
        boot = f" {BOOT_ID.read_text().strip()}"
    except OSError:
        boot = ""
    file = folder / BOOT_FILE
    known = file.read_text(errors="replace") if file.exists() else None
    if known == FORMAT + boot:
        return
    if known not in [form + boot for form in READABLE]:
        if (folder / FOLDER).exists():
            log.warning("the machine was restarted: what users have seen is read again from recs_events as they come")
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
    write_whole(file, FORMAT + boot)
