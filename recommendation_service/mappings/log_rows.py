"""The log of an operator that is code: what it is called, and how the server makes its rows."""

from recommendation_service.mappings.interacpedia.log_rows import COPY_PARAMETERS, COPY_TO_LOG, LOG_TABLE

__all__ = ["COPY_PARAMETERS", "COPY_TO_LOG", "LOG_TABLE"]
