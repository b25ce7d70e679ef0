"""A feed's part of the answer: the numbers of its items, then the items, which the catalog has ready-made."""

import numpy as np
import numpy.typing as npt

from recommendation_service.model.columns import Bytes, Int32, Int64
from recommendation_service.ranking.compiled import compiled, inlined

COMMA, QUOTE, ZERO, MINUS, BACKSLASH, BRACE = np.frombuffer(b',"0-\\}', np.uint8)
TYPE, ID = len(b'{"type":'), len(b',"id":')
BETWEEN = np.frombuffer(b'],"items":[', np.uint8)
MOST_DIGITS = 19  # of a number of 64 bits
AROUND_A_NUMBER = 3  # its quotes and a comma


@compiled
def join_items(
    blob: Bytes, offsets: Int64, items: Int32, numbers: npt.NDArray[np.int64], start: int, body: Bytes
) -> int:
    """Write ``"7","9"],"items":[{…},{…}`` into ``body`` from ``start`` on: the ``numbers`` and the JSON of the
    ``items`` (rows of the catalog, whose JSON is in ``blob``), n each.

    Where it ends; or, where ``body`` might be too small, the negative of how many bytes suffice, with nothing written.
    """
    n = len(items)
    needed = start + n * (MOST_DIGITS + 1 + AROUND_A_NUMBER) + len(BETWEEN)
    for i in range(n):
        needed += offsets[items[i] + 1] - offsets[items[i]] + 1
    if needed > len(body):
        return -needed
    at = start
    for i in range(n):
        if i > 0:
            body[at] = COMMA
            at += 1
        body[at] = QUOTE
        at = _write_number(numbers[i], body, at + 1)
        body[at] = QUOTE
        at += 1
    return _write_items(blob, offsets, items, body, at)


@compiled
def join_named_items(blob: Bytes, offsets: Int64, items: Int32, start: int, body: Bytes) -> int:
    """The same of items of a mapping, ``{"type":"song","id":"a-1",…``, each id as its item has it: text or a number."""
    n = len(items)
    needed = start + len(BETWEEN)
    for i in range(n):
        needed += 2 * (offsets[items[i] + 1] - offsets[items[i]] + 1)
    if needed > len(body):
        return -needed
    at = start
    for i in range(n):
        if i > 0:
            body[at] = COMMA
            at += 1
        last = offsets[items[i] + 1]
        begin = min(_behind_text(blob, offsets[items[i]] + TYPE, last) + ID, last)
        end = begin
        if begin < last and blob[begin] == QUOTE:
            end = min(_behind_text(blob, begin, last), last)
        while end < last and blob[end] != COMMA and blob[end] != BRACE:
            end += 1
        at = _copy(blob, begin, end, body, at)
    return _write_items(blob, offsets, items, body, at)


@inlined
def _behind_text(blob: Bytes, place: int, end: int) -> int:
    """The place behind a text in quotes, which begins at ``place``."""
    place += 1
    while place < end and blob[place] != QUOTE:
        place += 2 if blob[place] == BACKSLASH else 1
    return place + 1


@inlined
def _write_items(blob: Bytes, offsets: Int64, items: Int32, body: Bytes, at: int) -> int:
    at = _copy(BETWEEN, 0, len(BETWEEN), body, at)
    for i in range(len(items)):
        if i > 0:
            body[at] = COMMA
            at += 1
        at = _copy(blob, offsets[items[i]], offsets[items[i] + 1], body, at)
    return at


@inlined
def _write_number(number: int, body: Bytes, at: int) -> int:
    """In decimal digits, from ``at`` on; where it ends."""
    left = np.uint64(number)
    if number < 0:
        body[at] = MINUS
        at += 1
        left = np.uint64(0) - left
    digits = 1
    bound = np.uint64(10)
    while digits < MOST_DIGITS and left >= bound:
        digits += 1
        bound *= np.uint64(10)
    for place in range(digits):
        body[at + digits - 1 - place] = ZERO + np.uint8(left % np.uint64(10))
        left //= np.uint64(10)
    return at + digits


@inlined
def _copy(source: Bytes, start: int, end: int, body: Bytes, at: int) -> int:
    """Bytes start to end; where they end."""
    read, written = source[start:end], body[at : at + end - start]
    for i in range(len(read)):
        written[i] = read[i]
    return at + len(read)
