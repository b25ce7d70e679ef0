"""Whose tables are read: the operator's that MAPPING_FILE maps, else the first one's."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.engine import Connection, Engine

from recommendation_service.catalog.mapped_users import MappedUserReader
from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.mappings.interacpedia.source import Source
from recommendation_service.mappings.interacpedia.user_reader import UserReader
from recommendation_service.sources.item_row import ItemRow
from recommendation_service.sources.mapping.mapping import load_mapping
from recommendation_service.sources.mapping.source import MappedSource, demand_mapping
from recommendation_service.sources.users import ReadsUsers


def open_source(
    settings: Settings, engine: Engine, connect: Callable[[], Connection] | None = None
) -> Source | MappedSource:
    """Raises ConfigurationError with every problem of a mapping."""
    demand_mapping(settings)
    if settings.mapping_file is None:
        return open_coded_source(settings, engine, connect)
    return MappedSource(load_mapping(settings.mapping_file), engine, settings, connect)


def open_coded_source(settings: Settings, engine: Engine, connect: Callable[[], Connection] | None = None) -> Source:
    """The first operator's."""
    return Source(engine, settings, connect)


def user_reader(settings: Settings, connect: Callable[[], Connection], clock: Callable[[], float]) -> ReadsUsers:
    """Of users outside the catalog. Raises ConfigurationError for a mapping that cannot be read."""
    if settings.mapping_file is None:
        return UserReader(connect, settings, clock)
    return MappedUserReader(load_mapping(settings.mapping_file), connect, settings, clock)


def row_in_tables(settings: Settings, now: datetime, item_type: int, number: int) -> ItemRow | None:
    """Of the first operator. Asked so rarely that no connection is kept for it. Raises SourceError."""
    engine = make_engine(settings)
    try:
        return open_coded_source(settings, engine).item_row(now, item_type, number)
    finally:
        engine.dispose()
