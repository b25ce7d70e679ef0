"""How the feeds of an operator's contract are asked for; feeds by name are the same for everybody."""

from recommendation_service.mappings.interacpedia.feed_body import SPELLINGS, example_body, read_feed_body

__all__ = ["SPELLINGS", "example_body", "read_feed_body"]
