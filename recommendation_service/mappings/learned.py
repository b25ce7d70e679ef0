"""Whose rows of what people did are learned from: the operator's that MAPPING_FILE maps, else the first one's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy.engine import Connection, Engine

from recommendation_service.core.config import Settings
from recommendation_service.mappings.interacpedia.rows import read_rows, tables_with_rows
from recommendation_service.mappings.interacpedia.source import Source
from recommendation_service.mappings.opening import open_coded_source
from recommendation_service.sources.mapping.mapping import load_mapping
from recommendation_service.sources.mapping.rows import MappedMoment, MappedRows
from recommendation_service.sources.reader import Snapshot
from recommendation_service.sources.rows import OperatorRow, Page

__all__ = ["CodedMoment", "CodedRows", "MappedMoment", "open_rows", "tables_with_rows"]


class CodedMoment:
    """The first operator's tables, whose rows have numbers."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def beginning(self, table: str, most: int) -> int:
        """The number after which a table is read that was never read before. Raises SourceError."""
        return max(0, read_rows(self._snapshot, table, 0, 1).last_id - most)

    def read(self, table: str, after: int, most: int) -> Page:
        """The next ``most`` rows after a number. Raises SourceError."""
        return read_rows(self._snapshot, table, after, most)

    def again(self, table: str, row_id: int) -> OperatorRow | None:
        """What a row says by now; None: it is gone. Raises SourceError."""
        found = read_rows(self._snapshot, table, row_id - 1, 1).rows
        return found[0] if found and found[0].id == row_id else None


class CodedRows:
    def __init__(self, source: Source) -> None:
        self.engine = source.engine
        self._source = source

    @contextmanager
    def moment(self, now: datetime) -> Iterator[CodedMoment]:
        """Raises SourceError."""
        with self._source.snapshot(now) as snapshot:
            yield CodedMoment(snapshot)


def open_rows(settings: Settings, engine: Engine, connect: Callable[[], Connection]) -> CodedRows | MappedRows:
    """Raises ConfigurationError for a mapping that cannot be read."""
    if settings.mapping_file is None:
        return CodedRows(open_coded_source(settings, engine, connect))
    return MappedRows(load_mapping(settings.mapping_file), engine, connect, settings.database_zone)
