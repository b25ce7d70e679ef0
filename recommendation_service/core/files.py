"""Files of DATA_DIR as their folder is: its group and its mode, and where root makes them its owner.

Another user of the same group may take the folder over, and root may run a command before the service's first start.
With modes by each process's own umask, or 0600 as temporary files have it, the service would then find files that it
may not read. Only who acts makes anything: a command that looks opens nothing for writing.
"""

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

NOT_FOR_OTHERS = 0o660
# Of a folder: what one within it takes over. Never the sticky bit, nor that anybody may write.
_TAKEN_OVER = 0o2775


def make_folder(folder: Path) -> None:
    """Make a folder, as the one is that it lies in; further ones above it as the umask wants. Raises OSError."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        as_the_folder_above(folder)


def as_the_folder_above(folder: Path) -> None:
    """Give a folder that was just made the mode, group and, as root, the owner of the one that it lies in."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        above = folder.parent.stat()
        _take_over(descriptor, above, stat.S_IMODE(above.st_mode) & _TAKEN_OVER | stat.S_IRWXU)
    finally:
        os.close(descriptor)


def create(path: Path, flags: int = os.O_RDWR, *, most: int = 0o666) -> int:
    """A descriptor of a file that is made where it is missing, as its folder is; ``most``: what its mode may have.

    Raises OSError.
    """
    if not flags & os.O_EXCL:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags & ~os.O_CREAT)
    return _as_its_folder(os.open(path, flags | os.O_CREAT, 0o600), path, most)


def opener(most: int = 0o666) -> Callable[[str, int], int]:
    """For ``open``."""
    return lambda path, flags: create(Path(path), flags, most=most)


def write_whole(path: Path, content: bytes | str, *, most: int = 0o666, synced: bool = False) -> None:
    """Write a file aside and put it in its place, so that a reader sees all of it or what was before.

    Raises OSError.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)  # of a process before, which may have been another user's
        with open(temporary, "wb", opener=opener(most)) as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def append_line(path: Path, content: object) -> None:
    """Add a line of JSON to a file of such lines, whole and synced, or not at all. Raises OSError."""
    line = json.dumps(content, ensure_ascii=False).encode() + b"\n"
    descriptor = create(path, os.O_RDWR | os.O_APPEND)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line  # after one that was cut
        if os.write(descriptor, line) < len(line):
            os.ftruncate(descriptor, size)
            raise OSError(28, "No space left on device")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_lock(path: Path) -> int:
    """A descriptor to lock, of a file in a folder that is made where it is missing. Raises OSError.

    One that another user made may be locked where it can be read.
    """
    make_folder(path.parent)
    try:
        return create(path)
    except PermissionError:
        return os.open(path, os.O_RDONLY)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file's lock, waiting for it. Raises OSError."""
    descriptor = open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def folder_problem(folder: Path) -> str | None:
    """A sentence where this process may not work in a folder; None: it may, or the folder is not there yet."""
    try:
        mode = folder.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"The folder {folder} cannot be looked at: {error.strerror}."
    if not stat.S_ISDIR(mode):
        return f"{folder} is no folder."
    may = {"read": os.R_OK | os.X_OK, "written": os.W_OK}
    cannot = [what for what, access in may.items() if not os.access(folder, access, effective_ids=True)]
    if cannot and not (cannot == ["written"] and _is_read_only(folder)):
        return f"The folder {folder} cannot be {' or '.join(cannot)} by user {os.geteuid()}."
    return None


def _is_read_only(folder: Path) -> bool:
    """A file system that nobody may write to was mounted so on purpose, or fails as a disk does."""
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _as_its_folder(descriptor: int, path: Path, most: int) -> int:
    try:
        folder = path.parent.stat()
        _take_over(descriptor, folder, stat.S_IMODE(folder.st_mode) & most | stat.S_IRUSR | stat.S_IWUSR)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _take_over(descriptor: int, folder: os.stat_result, mode: int) -> None:
    # Who is not in the folder's group, and a file system without owners, cannot: then no other group may, either.
    try:
        os.fchown(descriptor, folder.st_uid if os.geteuid() == 0 else -1, folder.st_gid)
    except OSError:
        if os.fstat(descriptor).st_gid != folder.st_gid:
            mode &= ~stat.S_IRWXG
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, mode)
