"""What the page of the interface says of an operator's contract."""

from recommendation_service.mappings.interacpedia.documentation import (
    DESCRIPTION,
    FEED_EXAMPLE,
    FEED_ITEM_SCHEMAS,
    ITEMS,
    NOT_ALWAYS,
    SIZE_FIELD,
    SUMMARIES,
)

__all__ = ["DESCRIPTION", "FEED_EXAMPLE", "FEED_ITEM_SCHEMAS", "ITEMS", "NOT_ALWAYS", "SIZE_FIELD", "SUMMARIES"]
