"""The application in this process behind a real HTTP server: for tests of the contract, which need many requests."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import structlog
import uvicorn
from fastapi import FastAPI

from recommendation_service.bootstrap import create_app
from recommendation_service.catalog.builder import build_catalog
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.mappings.interacpedia.source import Source
from recommendation_service.policies.policy import load_policy
from recommendation_service.server.protocol import DoorProtocol
from tests.end_to_end.service import PATIENCE_SECONDS
from tests.servers import LOOPBACK, NO_AUTHORITIES, wait_until


def publish_catalog(settings: Settings) -> str:
    """Build a catalog from the settings' database and make it the current one."""
    engine = make_engine(settings)
    try:
        built = build_catalog(Source(engine, settings), settings, load_policy(settings.policy_file))
        return CatalogStore(settings.catalog_dir, settings.catalog_keep).publish(built)
    finally:
        engine.dispose()


def make_app(data_dir: Path, **settings: Any) -> FastAPI:
    """The application without a process that builds catalogs."""
    return create_app(Settings(data_dir=data_dir, catalog_refresher=False, **settings))


@contextmanager
def served(app: FastAPI) -> Iterator[httpx.Client]:
    """A client of the application, which listens on a loopback port until the block ends."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(
                app, http=DoorProtocol, log_config=None, access_log=False, server_header=False, lifespan="on"
            )
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            started = wait_until(lambda: server.started or not thread.is_alive(), PATIENCE_SECONDS)
            assert started, "the application did not start"
            assert server.started, "the application ended at its start"
            port = listener.getsockname()[1]
            address = f"http://{LOOPBACK}:{port}"
            with httpx.Client(base_url=address, timeout=PATIENCE_SECONDS, verify=NO_AUTHORITIES) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive(), "the application did not stop"


@contextmanager
def logs_left_alone() -> Iterator[None]:
    """What an application configures for its whole process is undone at the end of the block."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configured = structlog.get_config()
    try:
        yield
    finally:
        root.handlers, root.level = handlers, level
        structlog.configure(**configured)
