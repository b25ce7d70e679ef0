"""The composition root: the one place where the service's objects are built and closed."""

import asyncio
import contextlib
import gc
import os
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp

from recommendation_service.api.access import Access
from recommendation_service.api.accounts import Accounts
from recommendation_service.api.administration import add_administration
from recommendation_service.api.batches import add_batches
from recommendation_service.api.calls import Endpoint
from recommendation_service.api.documentation import DocumentedFeeds, add_documentation
from recommendation_service.api.editors import add_editors
from recommendation_service.api.errors import error_body, failure_body, http_error_body
from recommendation_service.api.explanations import add_explanations
from recommendation_service.api.feedback import FeedbackEndpoint
from recommendation_service.api.feeds import FeedEndpoint
from recommendation_service.api.hot import Admission, DirectCalls, HotRoute
from recommendation_service.api.limits import RateLimiter
from recommendation_service.api.lists import add_lists
from recommendation_service.api.middleware import HeadAsGet, RequestScope, ShortCut
from recommendation_service.api.named_feeds import IdForms, NamedFeed, NamedFeedEndpoint, add_unknown_feeds
from recommendation_service.api.operations import add_operations
from recommendation_service.api.people import add_people
from recommendation_service.api.threads import Threads
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.blocking_redis import open_blocking_redis
from recommendation_service.core.clock import Clock
from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.errors import InvalidRequest, ServiceError
from recommendation_service.core.holding import hold
from recommendation_service.core.logging import configure_logging
from recommendation_service.core.mysql_exchange import Exchanges
from recommendation_service.core.redis import open_redis
from recommendation_service.core.replicas import ReadReplicas
from recommendation_service.feed.compilation import compile_kernels, kernels_are_compiled
from recommendation_service.learning.mapped import learning_of
from recommendation_service.learning.person import part_that_stays
from recommendation_service.log.decisions import DecisionWriter
from recommendation_service.log.event_log import EventLog
from recommendation_service.log.stream import EventStream
from recommendation_service.mappings.opening import user_reader
from recommendation_service.memory.memory_keeper import MemoryKeeper
from recommendation_service.model.kinds import ENDPOINTS
from recommendation_service.model.words import FIRST_WORDS, Words
from recommendation_service.policies.choice import PolicyChoice
from recommendation_service.processes import registry
from recommendation_service.processes.supervision import ProcessSupervisor
from recommendation_service.server.door import Door, bounds_from
from recommendation_service.server.protocol import DIRECT_KEY
from recommendation_service.server.protocol import STATE_KEY as DOOR_KEY
from recommendation_service.serving.condition import Condition
from recommendation_service.serving.decisions import Decisions
from recommendation_service.serving.editing import known
from recommendation_service.serving.editors_watch import EditorsWatch, watch_fleet_editors
from recommendation_service.serving.feedback import Feedback
from recommendation_service.serving.feeds import Feeds
from recommendation_service.serving.first_start import after, make_source, take_up_or_compile
from recommendation_service.serving.fleet_memory import FleetMemory
from recommendation_service.serving.fleet_store import FleetStore
from recommendation_service.serving.forgetting import Forgetting
from recommendation_service.serving.generation import Serving
from recommendation_service.serving.group_commit import GroupCommit
from recommendation_service.serving.past import Past, PastReader
from recommendation_service.serving.place_watch import PlaceWatch
from recommendation_service.serving.policy_watch import watch_fleet_policy
from recommendation_service.serving.recording import Unrecorded
from recommendation_service.serving.seen_store import MachineStore, NoStore, SeenStore
from recommendation_service.serving.worker import STATE_KEY as WORKER_KEY
from recommendation_service.serving.worker import Worker
from recommendation_service.sources.mapping.mapping import Mapping, load_mapping
from recommendation_service.sources.mapping.source import demand_mapping
from recommendation_service.sources.mapping.words import words_of
from recommendation_service.sources.users import Users
from recommendation_service.telemetry import database_metrics, metrics_files
from recommendation_service.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

# Of a worker: the calls of administrators that it carries out at once.
ADMINISTRATION_THREADS = 4
# A worker's reads follow each other closely where there are many, and one that fails costs a feed what it asked for: no
# round trip asks before each whether the connection of the one before lives still.
TRUSTED_SECONDS = 0.1


class Application(FastAPI):
    """FastAPI within layers of ours, which would else be its own innermost, and a short cut to what is called most.

    ``hot``: by path, what takes POSTs before they come to FastAPI.
    """

    def __init__(self, layers: list[Middleware], hot: dict[str, ASGIApp], **options: Any) -> None:
        super().__init__(**options)
        self._layers = layers
        self.hot = hot
        # For other methods, and for whoever serves this below a root path, which the short cut does not know.
        self.router.routes += [Route(path, endpoint, methods=["POST"]) for path, endpoint in hot.items()]

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = ShortCut(HeadAsGet(super().build_middleware_stack()), self.hot)
        for layer, arguments, options in reversed(self._layers):
            app = layer(app, *arguments, **options)
        return app


def create_app(settings: Settings | None = None, make: Callable[[], None] | None = None) -> Application:
    """The application. Nothing is opened or connected before its lifespan begins.

    ``make``: makes the database, where it has yet to be made; called in a thread once the lifespan has begun.
    Raises ConfigurationError with every problem of settings, policy and learning file.
    """
    settings = settings or load_settings()
    demand_mapping(settings)
    configure_logging(settings)
    metrics = Metrics()
    metrics.database.folder = settings.data_dir / database_metrics.FOLDER
    policies = PolicyChoice(settings, metrics.policy_refused.inc)
    # At the start, so that what is wrong with it is told then.
    learning = learning_of(settings) if settings.learner != "off" else None
    access = Access(settings)
    store = CatalogStore(settings.catalog_dir, settings.catalog_keep, settings.item_time_zone)
    clock = Clock(settings.data_dir, settings.clock_tolerance_seconds)
    supervisors = {
        process.name: ProcessSupervisor(process, process.folder(settings), metrics_files.environment_outside())
        for process in registry.LEASED
        if process.is_wanted(settings)
    }
    serving = Serving(settings, store, policies, metrics, clock, supervisors)
    prefix = settings.api_path
    admission = Admission(access, RateLimiter(settings.rate_limit_per_key))
    per_user = RateLimiter(settings.rate_limit_per_user)
    mapping = load_mapping(settings.mapping_file) if settings.mapping_file is not None else None
    words = words_of(mapping) if mapping is not None else FIRST_WORDS
    named = named_feeds(mapping)
    endpoints: dict[str, Endpoint] = {
        f"{prefix}/search/{name}": FeedEndpoint(name, per_user) for name in (ENDPOINTS if named.has_search else ())
    }
    for feed in named.feeds:
        endpoints[f"{prefix}/feeds/{feed.name}"] = NamedFeedEndpoint(feed, named.forms, per_user)
    endpoints[f"{prefix}/feedback"] = FeedbackEndpoint(per_user, clock.now_ms, words)
    names = {f"{prefix}/search/{endpoint}": endpoint for endpoint in (*ENDPOINTS, "reload")}
    names |= {f"{prefix}/feeds/{feed.name}": feed.name for feed in named.feeds}
    accounts = Accounts(metrics, names, settings.access_log)
    cors = bool(settings.cors_allow_origins)

    def direct(worker: Worker) -> DirectCalls:
        return DirectCalls(endpoints, admission, accounts, worker, cors=cors)

    app = Application(
        _layers(settings, accounts),
        {path: HotRoute(endpoint, admission) for path, endpoint in endpoints.items()},
        title="recommendation-service",
        lifespan=_lifespan(
            settings, metrics, store, serving, partial(part_that_stays, settings, learning), make, direct, words
        ),
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        # Metrics and logs are our own; looking at each request whether a tracer was set up takes 5 µs.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        exception_handlers={
            ServiceError: _answer_service_error,
            HTTPException: _answer_http_error,
            RequestValidationError: _answer_invalid_request,
            Exception: _answer_failure,
        },
    )
    app.state.serving = serving
    threads = Threads("administration", ADMINISTRATION_THREADS)
    add_administration(app, prefix, settings, serving, access, threads, words, named)
    add_people(app, prefix, settings, serving, access, threads, words)
    add_editors(app, prefix, settings, serving, access, threads, lambda: known(mapping, serving.policy))
    add_explanations(app, prefix, settings, serving, store, access, threads, named, words)
    add_operations(app, prefix, serving, store, metrics, access, threads)
    add_lists(app, prefix, serving, admission, named)
    add_batches(app, prefix, serving, access, named.feeds, named.forms)
    add_unknown_feeds(app, prefix, [feed.name for feed in named.feeds], admission)
    add_documentation(app, prefix, access, named, words)
    return app


def named_feeds(mapping: Mapping | None) -> DocumentedFeeds:
    """The feeds of a mapping, or the first operator's by their names."""
    if mapping is None:
        return DocumentedFeeds([NamedFeed(name) for name in ENDPOINTS], IdForms(), {}, has_search=True)
    filters = {name: section.rule for name, section in mapping.content.filters.items()}
    forms = {mapping.content.item_ids(name) for name in mapping.content.items}
    return DocumentedFeeds(
        [NamedFeed(name, feed.size, filters) for name, feed in mapping.feeds.items()],
        IdForms(mapping.content.user_ids == "text", "text" in forms, "integer" in forms),
        {name: items.fields for name, items in mapping.content.items.items()},
        has_search=False,
    )


def warm_up(app: FastAPI) -> None:
    """In Gunicorn's master, before workers are forked: they then share machine code and catalog.

    A machine's first start has no machine code yet. There the workers come first and answer that they are alive, and
    one of them has it compiled: the master would be silent as long as that takes, and keep what the compiler leaves.
    """
    if kernels_are_compiled():
        compile_kernels()
        serving: Serving = app.state.serving
        serving.load_current()
    # What lives now is never collected, so its pages stay shared. With it some 2,000 objects of which nobody knows any
    # more: to find them would take a tenth of the start.
    gc.freeze()


def _lifespan(
    settings: Settings,
    metrics: Metrics,
    store: CatalogStore,
    serving: Serving,
    learned_slots: Callable[[], float | None],
    make: Callable[[], None] | None,
    direct: Callable[[Worker], DirectCalls],
    words: Words,
) -> Callable[[FastAPI], Any]:
    """What a worker opens, in the order in which it is needed, and closes the other way round.

    Here and not in the master: connections, threads and the memory's map do not survive a fork.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        clock = serving.clock
        redis = open_redis(settings, metrics)
        place = PlaceWatch(settings, serving, redis)
        held = await asyncio.to_thread(_hold, settings)
        await place.first_look()
        editors = EditorsWatch(settings, serving)
        editors.first_look()
        first = await take_up_or_compile(serving)
        source = asyncio.Event()
        door = Door(bounds_from(settings), lambda reason: metrics.connections_closed.labels(reason).inc())
        work: list[Coroutine[Any, Any, None]] = [serving.watch(), door.watch(), place.watch(), editors.watch(), *first]
        if make is None:
            source.set()
        else:
            work.append(make_source(serving, make, source))
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(_let_go, held)
            event_log = decisions = None
            if settings.record_events:
                event_log = EventLog(settings.events_dir, settings.event_log_megabytes << 20, now=clock.now)
                stack.push_async_callback(event_log.close)
                work.append(event_log.sync_often())
                writer = DecisionWriter(settings.decisions_dir, settings.decision_megabytes << 20, clock.now)
                stack.callback(writer.close)
                decisions = Decisions(writer, settings.decision_share, metrics)
            keeper = MemoryKeeper(settings, metrics, serving.lifetimes, clock)
            stack.callback(keeper.close)
            group = GroupCommit(keeper.memory, event_log, Unrecorded(metrics))
            if redis is not None:
                stack.push_async_callback(redis.close)
            for watch_fleet in (watch_fleet_policy, watch_fleet_editors):
                if (blocking := open_blocking_redis(settings)) is not None:
                    fleet_watch = watch_fleet(settings, serving, blocking)
                    stack.callback(fleet_watch.close)
                    work.append(fleet_watch.watch())
            # Where one statement says all of a user, no other one has to be of the same moment.
            alone = settings.mapping_file is None and Exchanges.can_speak_to(settings.source_url)
            replicas = ReadReplicas(
                settings,
                registry.pool_share(settings, registry.WORKER),
                numbers=metrics.database,
                trusted_seconds=TRUSTED_SECONDS,
                alone=alone,
            )
            stack.callback(replicas.dispose)
            seen: SeenStore = NoStore(group)
            if settings.seen_state:
                keeper.open()
                reader = PastReader(replicas.primary.connect, serving.lifetimes, settings.events_dir, clock.now, words)
                past = Past(reader, group, settings, metrics)
                stack.callback(past.close)
                work += [keeper.run(), past.run()]
                machine = seen = MachineStore(group, past, metrics)
                if redis is not None:
                    seen = FleetStore(machine, FleetMemory(redis, max(serving.lifetimes)))
            people = user_reader(settings, replicas.connect, clock.now)
            users = Users(people, settings, metrics, redis, connect=replicas.connect if alone else None)
            stack.push_async_callback(users.close)
            stream = EventStream(redis) if redis is not None else None
            worker = Worker(
                Feeds(serving, users, seen, metrics, clock.now, decisions),
                Feedback(serving, seen, event_log, stream, metrics),
                Forgetting(seen, users, stream, serving.drop_pools, learned_slots),
                Condition(settings, store, clock, serving, keeper.memory, editors),
                seen,
                people,
                users,
                editors,
            )
            work += [after(source, supervisor.run()) for supervisor in serving.supervisors.values()]
            stack.push_async_callback(_end, [asyncio.create_task(coroutine) for coroutine in work])
            # To the protocol, and to the routes.
            yield {DOOR_KEY: door, DIRECT_KEY: direct(worker), WORKER_KEY: worker}

    return lifespan


def _hold(settings: Settings) -> int | None:
    """DATA_DIR, beside the master and other workers; where the disk takes nothing, what is there is served without."""
    try:
        return hold(settings.data_dir, settings.data_dir_wait_seconds)
    except OSError as error:
        log.warning("DATA_DIR cannot be held", folder=str(settings.data_dir), reason=error.strerror)
        return None


def _let_go(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _layers(settings: Settings, accounts: Accounts) -> list[Middleware]:
    """The outermost first."""
    layers = [Middleware(RequestScope, accounts)]
    if settings.cors_allow_origins:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.cors_allow_origins),
                allow_methods=["GET", "HEAD", "POST", "DELETE"],
                allow_headers=["authorization", "content-encoding", "content-type", "x-api-key", "idempotency-key"],
                allow_credentials="*" not in settings.cors_allow_origins,
                # What answers bear beyond what a browser lets every script read.
                expose_headers=[
                    "x-request-id",
                    "retry-after",
                    "www-authenticate",
                    "allow",
                    "accept-encoding",
                    "idempotency-key-kept",
                ],
            )
        )
    return layers


async def _answer_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)  # noqa: S101
    request.state.error_code = error.code  # for the metrics
    return Response(error_body(error), error.status, error.headers, "application/json")


async def _answer_invalid_request(request: Request, error: Exception) -> Response:
    """What FastAPI found wrong in an address, in the contract's form."""
    assert isinstance(error, RequestValidationError)  # noqa: S101
    details = [{"field": str(each["loc"][-1]), "problem": _problem(each)} for each in error.errors()]
    return await _answer_service_error(request, InvalidRequest("The request has invalid fields.", details))


def _problem(found: dict[str, Any]) -> str:
    """In the words of the service's own checks: `must be …, but is …`."""
    rule = re.sub(r"^(?:Input|String) should ", "must ", str(found["msg"]).split(", unable to ")[0])
    return rule if rule == "Field required" else f"{rule}, but is {str(found['input'])[:64]!r}"


async def _answer_failure(request: Request, _error: Exception) -> Response:
    """What was raised goes on to RequestScope, which logs it."""
    return Response(failure_body(request.state.request_id), 500, media_type="application/json")


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    _, body = http_error_body(error.status_code)
    headers = dict(error.headers or {})
    if "Allow" in headers:
        # Each route says its own methods, and an address may have several.
        allowed = set(re.split(r",\s*", headers["Allow"]))
        for route in request.app.router.routes:
            if route.matches(request.scope)[0] is not Match.NONE:
                allowed |= route.methods or set()
        headers["Allow"] = ", ".join(sorted(allowed | ({"HEAD"} if "GET" in allowed else set())))
    return Response(body, error.status_code, headers, "application/json")
