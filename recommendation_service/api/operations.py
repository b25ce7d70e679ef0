"""What operators call: alive, ready, metrics, and a rebuild of the catalog."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from recommendation_service import __version__
from recommendation_service.api.access import Access
from recommendation_service.api.documentation import answers
from recommendation_service.api.threads import Threads
from recommendation_service.catalog.hold import read_held
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.errors import ServiceError
from recommendation_service.processes.registry import REFRESHER
from recommendation_service.processes.requests import ask
from recommendation_service.serving.generation import Serving, refresher_status
from recommendation_service.serving.worker import worker_of
from recommendation_service.telemetry.metrics import Metrics, render_metrics

RELOAD_WAIT_SECONDS = 60.0
RELOAD_POLL_SECONDS = 0.05
_RELOAD_ANSWERS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["statusCode", "body"],
                    "properties": {
                        "statusCode": {"const": status},
                        "body": {"type": "object", "required": list(body), "properties": body},
                    },
                }
            }
        },
    }
    for status, description, body in (
        (200, "Rebuilt", {"status": {"const": "rebuilt"}, "catalog": {"type": "string"}}),
        (202, "The build still runs", {"status": {"const": "rebuilding"}}),
    )
}
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class RebuildFailed(ServiceError):
    status = 503
    code = "rebuild_failed"


def add_operations(
    app: FastAPI,
    prefix: str,
    serving: Serving,
    store: CatalogStore,
    metrics: Metrics,
    access: Access,
    threads: Threads,
) -> None:
    """Declare the routes; what they need is handed in."""
    metrics_thread = ThreadPoolExecutor(1, "metrics")  # its own: what hangs elsewhere is to be seen here

    @app.get("/", summary="Name, status and version", tags=["operations"], responses=answers())
    async def root() -> dict[str, Any]:
        return {"name": "recommendation-service", "status": _status(serving), "version": __version__}

    @app.get("/health", summary="Alive", tags=["operations"], responses=answers())
    async def health() -> dict[str, Any]:
        """200 while the process answers, whatever its database does."""
        return {"name": "recommendation-service", "status": "alive", "version": __version__}

    @app.get("/ready", summary="Whether feeds can be served", tags=["operations"], responses=answers(503))
    async def ready(request: Request) -> dict[str, Any]:
        """200 only when a catalog is loaded; else 503 with the reason. `problems`: what has to be
        mended all the same, such as a blacklist that cannot be read any more, so that what was last read of it holds.
        """
        catalog = (await serving.ready_generation()).catalog
        return {
            "status": "ready",
            "catalog": catalog.version,
            "counts": catalog.counts,
            "problems": worker_of(request.scope).condition.problems(),
        }

    @app.get(
        "/metrics",
        summary="Prometheus text, summed over all workers",
        tags=["operations"],
        response_class=Response,
        responses=answers(content={"text/plain": {"schema": {"type": "string"}}}),
    )
    async def metrics_text(request: Request) -> Response:
        loop = asyncio.get_running_loop()
        text = await loop.run_in_executor(metrics_thread, render_metrics, metrics, worker_of(request.scope).condition)
        return Response(text, media_type=METRICS_TYPE)

    @app.post(
        f"{prefix}/search/reload",
        summary="Rebuild the catalog now",
        tags=["operations"],
        responses=answers(401, 403, 503) | _RELOAD_ANSWERS,
        openapi_extra={"security": [{"administrator": []}]},
    )
    async def reload(request: Request) -> JSONResponse:
        """Waits for the build, up to a minute: 200 with the new version, 202 where it still runs, 503 where it
        failed (what was served before is served on). Administrators only."""
        access.check_administrator(request.scope)
        try:
            token = await threads.run(lambda: ask(REFRESHER, store.folder))
        except OSError as error:
            raise RebuildFailed(f"The catalog folder cannot be written: {error.strerror}") from error
        deadline = time.monotonic() + RELOAD_WAIT_SECONDS
        while time.monotonic() < deadline:
            status = refresher_status(store)
            if str(status.get(REFRESHER.answer) or "") >= token:
                if status.get("error"):
                    raise RebuildFailed(str(status["error"]), retry_after_seconds=10)
                version = str(status.get("version"))
                return JSONResponse(
                    {"statusCode": 200, "body": {"status": "rebuilt", "catalog": version} | _held(store)}
                )
            if await request.is_disconnected():
                break
            await asyncio.sleep(RELOAD_POLL_SECONDS)
        return JSONResponse({"statusCode": 202, "body": {"status": "rebuilding"}}, status_code=202)


def _held(store: CatalogStore) -> dict[str, str]:
    """Why the newest catalog is not the one that is served, where that is so."""
    held = read_held(store.folder)
    return {"held": held.reason} if held is not None else {}


def _status(serving: Serving) -> str:
    return "ready" if serving.catalog is not None else "not ready"
