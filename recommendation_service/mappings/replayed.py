"""A log that is replayed through an operator's own tables, SQL and ranking: the first one's."""

from recommendation_service.mappings.interacpedia.replayed import ITEM_TYPE, OperatorTables, item_number, user_number

__all__ = ["ITEM_TYPE", "OperatorTables", "item_number", "user_number"]
