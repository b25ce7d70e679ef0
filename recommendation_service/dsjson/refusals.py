"""Why a line is not read. A reason is one of few words, so that thousands of lines make a short table."""

from collections import Counter
from enum import StrEnum
from typing import NamedTuple

# Lines that are kept by number, to be shown; all are counted.
MOST_NAMED = 1_000


class Reason(StrEnum):
    """What a refused line breaks; or, of the last two, why a sound one says nothing."""

    NOT_JSON = "no whole JSON object"
    TOO_LONG = "longer than a line may be"
    ACTIONS = "no actions, or such as cannot be"
    PROBABILITY = "probability missing, or outside (0, 1]"
    DROPPED = "pdrop outside [0, 1)"
    INDEX = "shown action missing, or outside the actions"
    RANKING = "a is no permutation of the actions, or p is of another length"
    CONTRADICTION = "shown action or probability said twice, and not alike"
    COST = "cost that is no finite number"
    OUTCOMES = "outcomes that do not fit the slots"
    TWICE = "one action twice"
    TOO_MUCH = "cost over probability so large that one event would be all"
    APPRENTICE = "apprentice mode: cost and original cost differ, and which to weigh was not said"
    FORM = "of another form than the log's first line"
    NOT_ACTIVATED = "never activated"
    NO_REWARD = "no reward known"


LEFT_OUT = frozenset({Reason.NOT_ACTIVATED, Reason.NO_REWARD})


class Refused(Exception):
    """Of one line; never ends the reading."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


class RefusedLine(NamedTuple):
    """``number`` counts from 1."""

    number: int
    reason: Reason
    detail: str

    def __str__(self) -> str:
        return f"line {self.number:,}: {self.reason}" + (f": {self.detail}" if self.detail else "")


class Refusals:
    """What was refused of a log so far, and what was left out."""

    def __init__(self) -> None:
        self.counts: Counter[Reason] = Counter()
        self.named: list[RefusedLine] = []

    def add(self, line: RefusedLine) -> None:
        self.counts[line.reason] += 1
        if line.reason not in LEFT_OUT and len(self.named) < MOST_NAMED:
            self.named.append(line)

    @property
    def refused(self) -> int:
        return sum(count for reason, count in self.counts.items() if reason not in LEFT_OUT)

    @property
    def left_out(self) -> int:
        return sum(count for reason, count in self.counts.items() if reason in LEFT_OUT)
