"""What was last read of an operator's list, kept in DATA_DIR: one that is lost must not be taken for an empty one."""

import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from recommendation_service.core.errors import SourceError
from recommendation_service.core.files import make_folder, write_whole
from recommendation_service.sources.lists import Unreadable, read_file

T = TypeVar("T")

_BEGIN, _END = "# kept of ", "# the end"  # so that a kept list that was cut off is known to be


def read_kept(path: Path, what: str, parse: Callable[[bytes], T]) -> T | None:
    """None: no list was ever read. ``what``: the list, in words; ``parse`` raises Unreadable for what is none.

    Raises SourceError where it cannot be told.
    """
    try:
        content, _ = read_file(path)
        if not content.startswith(_BEGIN.encode()) or not content.endswith(f"{_END}\n".encode()):
            raise Unreadable(f"{path} is damaged")
        return parse(content)
    except Unreadable as error:
        if not os.path.lexists(path):
            return None
        raise SourceError(
            f"what was last read of {what} cannot be read: {error}. Mend it; or remove it, and only {what} itself "
            "counts."
        ) from error


def keep(path: Path, what: str, source: str, lines: Iterable[str]) -> None:
    """Whole or not at all, and on the disk. Raises SourceError: a list that cannot be kept would not hold."""
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    content = "\n".join([f"{_BEGIN}{source} at {moment}", *lines, f"{_END}\n"])
    try:
        make_folder(path.parent)
        write_whole(path, content, synced=True)
    except OSError as error:
        raise SourceError(f"{what} cannot be kept in {path}: {error.strerror}") from error
