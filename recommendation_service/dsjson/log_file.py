"""A decision log read from its beginning to its end, once, with what is to be said about it afterwards."""

from array import array
from collections.abc import Callable, Iterator
from datetime import datetime
from hashlib import blake2b
from pathlib import Path

import numpy as np

from recommendation_service.dsjson.decision import Decision, Form
from recommendation_service.dsjson.lines import lines_of
from recommendation_service.dsjson.reading import Costs, decision_of
from recommendation_service.dsjson.refusals import Reason, Refusals, Refused, RefusedLine


class DecisionLog:
    """One file; ``form`` is that of the first line that is read, unless it is given.

    In memory are one line, and of each event 16 bytes to tell repeated ids by.
    """

    def __init__(self, path: Path, costs: Costs = Costs.ASK, form: Form | None = None) -> None:
        self.path = path
        self.form = form
        self.refusals = Refusals()
        self.events = 0
        self.untimed = 0
        self.first: datetime | None = None
        self.last: datetime | None = None
        self.disordered = 0  # events that are older than one before
        self._costs = costs
        self._ids = array("Q")
        self._lines = array("Q")

    def decisions(
        self,
        read: Callable[[int], None] = lambda _bytes: None,
        refused: Callable[[RefusedLine], None] = lambda _line: None,
    ) -> Iterator[Decision]:
        """``read`` is told how many bytes of the file are behind, ``refused`` of each line that is not weighed.

        Raises OSError.
        """
        with open(self.path, "rb") as file:
            for number, line in lines_of(file, read):
                try:
                    decision = self._checked(line)
                except Refused as error:
                    named = RefusedLine(number, error.reason, error.detail)
                    self.refusals.add(named)
                    refused(named)
                    continue
                self._note(number, decision)
                yield decision

    def _checked(self, line: bytes | None) -> Decision:
        if line is None:
            raise Refused(Reason.TOO_LONG)
        decision = decision_of(line, self._costs)
        if self.form is None:
            self.form = decision.form
        if decision.form is not self.form:
            raise Refused(Reason.FORM, f"{decision.form} in a log of {self.form}")
        return decision

    def _note(self, number: int, decision: Decision) -> None:
        self.events += 1
        if decision.event_id is not None:
            self._ids.append(int.from_bytes(blake2b(decision.event_id.encode(), digest_size=8).digest(), "little"))
            self._lines.append(number)
        time = decision.timestamp
        if time is None:
            self.untimed += 1
            return
        self.disordered += self.last is not None and time < self.last
        self.first = time if self.first is None else min(self.first, time)
        self.last = time if self.last is None else max(self.last, time)

    def repeated(self) -> list[int]:
        """Lines whose EventId a line before has."""
        ids, lines = np.array(self._ids, np.uint64), np.array(self._lines, np.int64)
        _, firsts = np.unique(ids, return_index=True)
        return sorted(np.delete(lines, firsts).tolist())
