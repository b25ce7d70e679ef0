"""Settings of an operator that is code, which stand among those of the service."""

from recommendation_service.mappings.interacpedia.settings import DATABASE, OperatorSettings

__all__ = ["DATABASE", "OperatorSettings"]
