"""Builds a catalog from a source, of whichever operator. The catalog is written by store.py."""

from datetime import UTC, datetime

from recommendation_service.catalog.built import BuiltCatalog
from recommendation_service.catalog.coded_source import CodedSource
from recommendation_service.catalog.kept_lists import KeptLists
from recommendation_service.catalog.mapped import build_mapped
from recommendation_service.core.config import Settings
from recommendation_service.policies.policy import Policy
from recommendation_service.sources.mapping.source import MappedSource


def build_catalog(
    source: CodedSource | MappedSource,
    settings: Settings,
    policy: Policy,
    now: datetime | None = None,
    kept: KeptLists | None = None,
) -> BuiltCatalog:
    """Read the source and build a catalog as of ``now``; ``kept``: of the builds before it, where there were any.

    Raises SourceError where the database cannot be read, or a blacklist that there should be; a bad row or value never
    stops a build.
    """
    now = now or datetime.now(UTC)
    if isinstance(source, MappedSource):
        return build_mapped(source.mapping, source.tables(now), settings, policy, now, kept)
    return source.build(settings, policy, now, kept)
