"""What the feeds of an operator's contract hold and are answered with; feeds by name are the same for everybody."""

from recommendation_service.mappings.interacpedia.words import FEED_ITEMS, IDS_FIELDS, ITEM_COUNTS

__all__ = ["FEED_ITEMS", "IDS_FIELDS", "ITEM_COUNTS"]
