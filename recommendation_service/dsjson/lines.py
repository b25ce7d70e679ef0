"""The lines of a file, however large it is: only one is in memory at a time."""

from collections.abc import Callable, Iterator
from typing import BinaryIO

# A line that is longer is not held: without an end of line a damaged file would be one.
MOST_BYTES = 64 << 20

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def lines_of(file: BinaryIO, read: Callable[[int], None]) -> Iterator[tuple[int, bytes | None]]:
    """Number (from 1) and content of each line that is not blank; None of one that is longer than ``MOST_BYTES``.

    ``read`` is told of the bytes behind each line. Raises OSError.
    """
    number = 0
    while line := file.readline(MOST_BYTES + 1):
        number += 1
        read(len(line))
        if len(line) > MOST_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
                read(len(rest))
            read(len(rest))
            yield number, None
            continue
        content = (line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line).strip()
        if content:
            yield number, content
