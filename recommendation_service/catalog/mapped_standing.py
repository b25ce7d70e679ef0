"""How a mapping's tables stand to items that a build left out: what is over by the clock alone, and what is there.

Both are told by the mapping's own queries: asked as of the moment when the current catalog was built, and without their
conditions. What is there and no longer meets the conditions was withdrawn.
"""

from collections.abc import Mapping
from datetime import datetime

from recommendation_service.catalog.coded_source import CodedSource, Standing
from recommendation_service.catalog.mapped import numbers_of
from recommendation_service.catalog.store import Catalog
from recommendation_service.model.columns import Int64
from recommendation_service.model.text_ids import ITEM_BITS
from recommendation_service.sources.mapping.source import MappedSource
from recommendation_service.sources.mapping.tables import Ids
from recommendation_service.sources.mapping.words import type_numbers

_OVER = "are over by the clock alone (lives_days, :since or :now)"
_GONE = "are no longer in the tables that its query reads"


def words_of(source: CodedSource | MappedSource) -> Mapping[int, str]:
    """What a report calls the items of a type, by its number."""
    if not isinstance(source, MappedSource):
        return source.words
    return {number: f"items.{name}" for name, number in type_numbers(source.mapping).items()}


def standing_by_mapping(source: MappedSource, current: Catalog, now: datetime) -> Standing:
    """``current``: with which a build is compared. Raises SourceError."""
    then, there = source.standing(datetime.fromisoformat(current.manifest["built_at"]), now)
    types = type_numbers(source.mapping)

    def numbers(ids: Mapping[str, Ids]) -> dict[int, Int64]:
        return {types[name]: numbers_of(own, ITEM_BITS) for name, own in ids.items()}

    return Standing(
        numbers(then), numbers(there), lambda _type, _body: False, dict.fromkeys(types.values(), (_OVER, _GONE))
    )
