"""Whose rows of what people did are learned from: the first operator's."""

from recommendation_service.mappings.interacpedia.rows import read_rows, tables_with_rows

__all__ = ["read_rows", "tables_with_rows"]
