"""The operator's blacklist: video addresses that must not be shown. So it fails closed.

Where the file cannot be read any more, what was last read of it holds: each build keeps that in DATA_DIR, for itself
and for whoever builds after a restart. To have nothing blacklisted, the file is emptied, not removed.

A file that was changed a moment ago may be half-written. Until it has been quiet, what was on it before holds as well,
so an address that is added counts at once, and one that is taken off a build later.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from recommendation_service.core.config import Settings
from recommendation_service.core.errors import SourceError
from recommendation_service.sources.kept import keep, read_kept
from recommendation_service.sources.lists import LineWarnings, Unreadable, is_readable, numbered_lines, read_file

DEFAULT_NAME = "blacklist.txt"  # in DATA_DIR
KEPT_NAME = "blacklist.kept"
QUIET_SECONDS = 3.0
_WHAT = "the blacklist"


@dataclass(frozen=True)
class Blacklist:
    """What a build leaves out."""

    addresses: frozenset[str]
    warnings: list[str]
    was_read: bool  # now or ever; False: there is none
    held: str | None = None  # why what was read last holds, and not the file


def read_blacklist(settings: Settings) -> Blacklist:
    """The file, or what was last read of it; a good one is kept.

    Raises SourceError where there is a file, it cannot be read, nothing is kept, and BLACKLIST_REQUIRED.
    """
    path, kept_path = _path(settings), settings.data_dir / KEPT_NAME
    kept = read_kept(kept_path, _WHAT, lambda content: _parse(kept_path, content)[0])
    try:
        addresses, warnings, is_quiet = _read(path)
    except Unreadable as error:
        if kept is not None:
            held = f"the blacklist cannot be read ({error}): what was last read of it, {len(kept)} addresses, holds"
            return Blacklist(kept, [held], was_read=True, held=held)
        if not _is_wanted(settings):
            return Blacklist(frozenset(), [], was_read=False)
        if settings.blacklist_required:
            raise SourceError(_unread(path, error)) from None
        return Blacklist(frozenset(), [f"nothing is blacklisted: {error}"], was_read=False)
    if kept and not addresses:
        warnings.append(f"{path}: no address is on it any more; there were {len(kept)}")
    if kept is not None and not is_quiet and not kept <= addresses:
        warnings.append(f"{path}: changed just now; what was on it before is left out until the next build")
        addresses |= kept
    if addresses != kept:
        keep(kept_path, _WHAT, str(path), sorted(addresses))
    return Blacklist(addresses, warnings, was_read=True)


def missing_blacklist(settings: Settings) -> str | None:
    """Why nothing may be shown that was built without a blacklist; None: there need not be one, or it can be read."""
    if not settings.blacklist_required or not _is_wanted(settings) or (settings.data_dir / KEPT_NAME).exists():
        return None
    try:
        _read(_path(settings))
    except Unreadable as error:
        return _unread(_path(settings), error)
    return None


def blacklist_stamp(settings: Settings) -> tuple[object, ...]:
    """Different whenever the list may be another."""
    path = _path(settings)
    try:
        status = path.stat()
    except OSError as error:
        return str(path), error.errno
    when = status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size
    return str(path), *when, is_readable(path), _is_quiet(status.st_mtime)


def _path(settings: Settings) -> Path:
    return settings.blacklist_file or settings.data_dir / DEFAULT_NAME


def _is_wanted(settings: Settings) -> bool:
    """Whether somebody named a list, or put one (or a link to one) at its place."""
    return settings.blacklist_file is not None or os.path.lexists(_path(settings))


def _unread(path: Path, error: Unreadable) -> str:
    return (
        f"the blacklist {path} cannot be read, and none was read before: {error}. Mend it, or set "
        "BLACKLIST_REQUIRED=false to go on without."
    )


def _is_quiet(modified: float) -> bool:
    """Whichever way the clocks of this machine and of the file's differ by a little."""
    return abs(time.time() - modified) > QUIET_SECONDS


def _read(path: Path) -> tuple[frozenset[str], list[str], bool]:
    """Addresses, warnings, and whether nobody has changed the file for a while. Raises Unreadable."""
    content, modified = read_file(path)
    addresses, warnings = _parse(path, content)
    return addresses, warnings, _is_quiet(modified)


def _parse(path: Path, content: bytes) -> tuple[frozenset[str], list[str]]:
    warnings = LineWarnings(path)
    addresses = set()
    for number, line in numbered_lines(content, warnings):
        if len(line.split()) != 1:
            warnings.add(number, f"expected one address and found {line[:80]!r}")
            continue
        addresses.add(line)
    if warnings.count and not addresses:
        raise Unreadable(f"{path}: not one of its lines is an address; {warnings.lines()[0]}")
    return frozenset(addresses), warnings.lines()
