"""Room on the disk for a file that is written through its mapping, taken ahead of its use.

A page that is written to where the disk has no room for it ends the process (SIGBUS). So a full disk is met here, where
room is taken, and as room is taken ahead, a disk that is full for a while is not met at all.
"""

import os
import re
from pathlib import Path

# Here room that was taken is there for every later write; elsewhere (copy on write, networks) a write may need more.
KEEPING_ROOM = {"ext2", "ext3", "ext4", "xfs", "tmpfs"}
MOUNTS = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")


class DiskRoom:
    """Of one file, of which only the beginning is used."""

    def __init__(self, file: Path, size: int, ahead: int, least: int) -> None:
        """Bytes: never more than ``size`` are taken, ``ahead`` of the use or, where the disk has less, half of that and
        so on, down to ``least``."""
        self._file = file
        self._size = size
        self._ahead = ahead
        self._least = least
        self._taken = 0  # of the file, from its beginning

    def beyond(self, used: int) -> int:
        """How many bytes beyond the first ``used`` have their room; more is taken where that is little.

        While nobody else writes to the file: where a file system cannot take room, the C library writes zeros.
        """
        if used + self._ahead // 2 > self._taken and self._taken < self._size:
            self._take(used)
        return self._taken - used

    def _take(self, used: int) -> None:
        try:
            descriptor = os.open(self._file, os.O_RDWR)
        except OSError:
            return
        try:
            ahead = self._ahead
            while ahead >= self._least:
                wanted = min(used + ahead, self._size)
                if wanted <= self._taken:
                    return
                try:
                    os.posix_fallocate(descriptor, self._taken, wanted - self._taken)
                except OSError:
                    ahead //= 2
                else:
                    self._taken = wanted
                    return
        finally:
            os.close(descriptor)


def keeps_room(folder: Path) -> bool:
    return file_system(folder) in KEEPING_ROOM


def file_system(folder: Path) -> str:
    """Its type, as the kernel calls it; empty where that cannot be told."""
    found, name = "", ""
    try:
        path, mounts = str(folder.resolve()), MOUNTS.read_text("utf-8", "surrogateescape")
    except OSError:
        return ""
    for line in mounts.splitlines():
        mount, _, of_mount = line.partition(" - ")
        point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), mount.split(" ")[4])
        holds = f"{path}/".startswith(f"{point.rstrip('/')}/")
        if holds and len(point) >= len(found):  # of two at one place, the later is on top
            found, name = point, of_mount.partition(" ")[0]
    return name
