"""Structured logs: one JSON object a line (or, for people, one readable line), each with its request id.

Lines of libraries that use the standard logging module go through the same processors.
"""

import logging
import sys
import time
from typing import Any

import structlog

from recommendation_service.core.config import Settings

SELDOM_SECONDS = 10.0


def configure_logging(settings: Settings) -> None:
    """Route everything to standard error. Call once a process, before anything is logged."""
    level = getattr(logging, settings.log_level.upper())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)


class Seldom:
    """Logs an error that befalls many requests at once: the first of ten seconds."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._quiet_until = 0.0  # of time.monotonic()

    def error(self, event: str, reason: Exception) -> None:
        now = time.monotonic()
        if now > self._quiet_until:
            self._quiet_until = now + SELDOM_SECONDS
            self._log.error(event, reason=str(reason))
