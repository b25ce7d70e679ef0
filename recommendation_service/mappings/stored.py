"""What is stored by name since before there were mappings: the item types 0 to 2."""

from recommendation_service.mappings.interacpedia.words import ItemType

__all__ = ["ItemType"]
