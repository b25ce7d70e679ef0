"""What the doctor knows of an operator's tables: a mapping that is code brings one."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from recommendation_service.doctor.indices import Index
from recommendation_service.sources.reader import Snapshot

Scans = Mapping[tuple[str, str], str]  # query and table: why it is no fault that this is read whole


@dataclass(frozen=True)
class Schema:
    """``queries``: names of those that want an index or a while, in the order in which they are examined."""

    tables: dict[str, tuple[str, ...]]  # with the columns that are read
    indices: tuple[Index, ...]  # of phase 1
    queries: tuple[str, ...]
    targets: Mapping[str, float]  # milliseconds, by query
    scans: Scans
    appended: frozenset[str]  # tables that events are appended to
    somebody: str  # a statement that finds a user who is there, for the queries that read one


class ExaminedSource(Protocol):
    """A database with its queries."""

    schema: Schema

    def snapshot(self, now: datetime) -> AbstractContextManager[Snapshot]:
        """Raises SourceError."""
