"""What one machine has learned, as the fleet keeps it: a value that says whose it is, of which release, and whole.

A value is a line and a body. The line is what Redis compares before it lets one replace another (fleet.py): the form,
who wrote it, the how manieth of that machine it is, whether another machine put it there, and a checksum of the body.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from recommendation_service.learning.sums import Sums

FORM = 1  # of the body
_LINE = b"recs-sums %d %s %d %s %s\n"
OWN, COPY = b"own", b"copy"
STRUCK = b"recs-struck"


class PartRefused(Exception):
    """It cannot be merged; the message says why."""


class _Body(msgspec.Struct):
    host: str
    written_ms: int
    slots: int
    kinds: list[str]
    features: list[str]
    half_life_seconds: float
    epoch: int
    total: bytes
    low: bytes


@dataclass(frozen=True)
class Part:
    """Of a machine: its sums, of ``slots`` shown items, as they were at ``written_ms``."""

    machine: str
    host: str
    sequence: int
    written_ms: int
    slots: int
    sums: Sums

    def encoded(self, writer: str) -> bytes:
        sums = self.sums
        total, low = (np.ascontiguousarray(array, "<f8").tobytes() for array in (sums.total, sums.low))
        shape = list(sums.kinds), list(sums.features), sums.half_life_seconds, sums.epoch
        body = msgspec.msgpack.encode(_Body(self.host, self.written_ms, self.slots, *shape, total, low))
        sha = hashlib.sha256(body).hexdigest().encode()
        return _LINE % (FORM, writer.encode(), self.sequence, OWN, sha) + body


def decode_part(machine: str, value: bytes) -> Part:
    """Raises PartRefused where it is damaged, or another release's."""
    line, _, body = value.partition(b"\n")
    words = line.split(b" ")
    if len(words) != 6 or words[0] != b"recs-sums" or hashlib.sha256(body).hexdigest().encode() != words[5]:
        raise PartRefused("they are damaged")
    if words[1] != b"%d" % FORM:
        told = words[1].decode("ascii", "replace")
        raise PartRefused(f"they were written by another release: their form is {told}, and this one's {FORM}")
    try:
        found = msgspec.msgpack.decode(body, type=_Body)
        sums = Sums(found.kinds, found.features, found.half_life_seconds)
        sums.epoch = found.epoch
        for array, content in ((sums.total, found.total), (sums.low, found.low)):
            array[:] = np.frombuffer(content, "<f8").reshape(array.shape)
            if not np.isfinite(array).all():
                raise PartRefused("they are not finite")
        return Part(machine, found.host, int(words[3]), found.written_ms, found.slots, sums)
    except (ValueError, OverflowError) as error:
        raise PartRefused(f"they are damaged: {error}") from error


def as_copy(value: bytes) -> bytes:
    """As another machine puts it back after Redis lost it: its own machine may replace it, whoever wrote it there."""
    return value.replace(b" own ", b" copy ", 1)


def is_struck(value: bytes) -> bool:
    return value.startswith(STRUCK)


def struck(host: str, moment_ms: int, *, until_written: bool = False) -> bytes:
    """``until_written``: the machine itself may put its sums there again."""
    return b"%s%s %d %s\n" % (STRUCK, b"-until-written" if until_written else b"", moment_ms, host.encode())


def merged(own: Sums, others: list[Part], now: float) -> tuple[Sums, list[Part], dict[str, str]]:
    """The sums of all; the parts that are in them beside ``own``, and by machine why one is not.

    Those of fewer kinds or features have never seen the others; those of kinds or features that are gone are refused.
    """
    total = Sums(own.kinds, own.features, own.half_life_seconds)
    total.merge(own)
    taken: list[Part] = []
    refused: dict[str, str] = {}
    for part in others:
        theirs = Sums(own.kinds, own.features, own.half_life_seconds)
        try:
            theirs.take(part.sums, now)
        except ValueError as error:
            refused[part.machine] = str(error)
            continue
        total.merge(theirs)
        taken.append(part)
    return total, taken, refused


def described(part: Part, **more: Any) -> dict[str, Any]:
    """For people and scripts."""
    shown = {"machine": part.machine, "host": part.host, "slots": part.slots, "written_ms": part.written_ms}
    return {**shown, **more}
