"""`recs`: the service's command line."""

import contextlib
import json
import logging
import os
import re
import secrets
import sys
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from recommendation_service import __version__
from recommendation_service.catalog import commands as catalog_commands
from recommendation_service.core.config import Settings, load_settings, origins_of
from recommendation_service.core.errors import (
    CatalogError,
    ConfigurationError,
    InvalidRequest,
    ServiceError,
    SourceError,
)
from recommendation_service.core.output import print_rows
from recommendation_service.demo import commands as demo_commands
from recommendation_service.doctor import commands as doctor_commands
from recommendation_service.events import commands as events_commands

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Personal, diverse feeds over the tables you have.",
)
app.add_typer(catalog_commands.app, name="catalog")
app.add_typer(demo_commands.app, name="demo")
app.add_typer(events_commands.app, name="events")
app.command()(doctor_commands.doctor)
app.command()(events_commands.migrate)

BROKEN_PIPE = 141  # what a shell says of a program whose reader has gone: 128 and SIGPIPE

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def recs(
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Personal, diverse feeds over the tables you have."""
    # Commands print their results; of the log only what a person must know, and never on standard output.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind. Default: API_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to bind. Default: API_PORT.")] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Where no database is named, build and serve the embedded demo.")
    ] = False,
) -> None:
    """Serve in one process, for trying out and developing. In production: scripts/start_production.sh.

    \b
    $ recs serve --demo --host 127.0.0.1
    $ MYSQL_HOST=db.internal MYSQL_USER=recs MYSQL_PASSWORD=… recs serve
    """
    settings = load_settings()
    host, port = host or settings.api_host, port or settings.api_port
    if demo:
        os.environ.setdefault("LOG_FORMAT", "console")
        os.environ.setdefault("LOG_LEVEL", "warning")
        settings = load_settings()
        _prepare_demo(settings)
    _load_kernels()
    _print_first_steps(settings, host, port)

    import uvicorn

    from recommendation_service.api.protocol import DoorProtocol

    uvicorn.run(
        "recommendation_service.bootstrap:create_app",
        factory=True,
        host=host,
        port=port,
        loop="uvloop",
        http=DoorProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.gunicorn_keepalive,
        timeout_graceful_shutdown=settings.gunicorn_graceful_timeout,
    )


def _prepare_demo(settings: Settings) -> None:
    """The embedded database, and a first catalog, where they are missing."""
    from sqlalchemy import NullPool, create_engine

    from recommendation_service.demo.interacpedia import load_interacpedia

    url = settings.source_url
    if url.get_backend_name() == "sqlite" and url.database:
        path = Path(url.database)
        if not path.exists():
            Console().print(f"Building the demo database in {path} (once)")
            # Under another name until it is whole, so that an interrupted build is not taken for one.
            unfinished = path.with_name(f"{path.name}.building")
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.unlink(missing_ok=True)
            engine = create_engine(f"sqlite:///{unfinished}", poolclass=NullPool)
            with demo_commands.progress_bars(Console(stderr=True)) as progress:
                report = load_interacpedia(engine, progress=progress)
            engine.dispose()
            unfinished.rename(path)
            Console().print(f"{sum(report.counts.values()):,} rows in {report.seconds:.1f} s", highlight=False)
    from recommendation_service.catalog.store import CatalogStore

    if CatalogStore(settings.catalog_dir, settings.catalog_keep, settings.item_time_zone).current() is None:
        try:
            catalog_commands.publish_catalog(settings, Console(stderr=True))
        except (SourceError, CatalogError) as error:
            # The service starts all the same, says why it is not ready, and becomes ready by itself.
            Console(stderr=True).print(f"No catalog yet: {error}", style="yellow", markup=False)


def _load_kernels() -> None:
    """Importing reads the machine code; the first time on a machine it is compiled, which takes a while."""
    console = Console(stderr=True)
    from recommendation_service.feed.compilation import compile_kernels, kernels_are_compiled

    if not kernels_are_compiled():
        with console.status("Compiling the ranking for this machine (once; about half a minute)"):
            compile_kernels()


def _print_first_steps(settings: Settings, host: str, port: int) -> None:
    shown = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104
    address = f"http://{shown}:{port}"
    user = _some_user(settings)
    key = ' -H "Authorization: Bearer $API_KEY"' if settings.api_keys else ""
    typer.echo(f"Serving on {address} (Ctrl-C stops). Documentation: {address}/docs\n")
    typer.echo(
        f"  curl -s {address}{settings.api_path}/search/total -H 'Content-Type: application/json'{key} "
        f'-d \'{{"SELF_ID": {user}, "N_VIDEOS": 24}}\'\n'
    )


def _some_user(settings: Settings) -> int:
    """Somebody with a history, so that the first feed is a personal one."""
    import numpy as np

    from recommendation_service.catalog.store import CatalogStore

    store = CatalogStore(settings.catalog_dir, settings.catalog_keep, settings.item_time_zone)
    version = store.current()
    if version is None:
        return 0
    try:
        arrays = store.open(version, verify=False).arrays
    except CatalogError:
        return 0
    if len(arrays.user_id) == 0:
        return 0
    return int(arrays.user_id[int(np.argmax(np.diff(arrays.history_offsets) >= 5))])


@app.command()
def feed(
    user: Annotated[int, typer.Argument(min=0, max=2**63 - 1, help="The user's number; 0 is anonymous.")],
    endpoint: Annotated[str, typer.Option(help="total, discover or flow.")] = "total",
    size: Annotated[int, typer.Option(min=1, max=100, help="How many items.")] = 24,
    exclude: Annotated[str, typer.Option(help="Comma-separated numbers of items that must not come back.")] = "",
    request_id: Annotated[
        str | None,
        typer.Option(help="The same one gives the same feed on the same catalog. Default: a new one."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a user's feed here, from the current catalog, and show why each item is in it.

    \b
    $ recs feed 4711
    $ recs feed 0 --endpoint discover --size 10
    $ recs feed 4711 --request-id 1f0c… --json
    """
    from recommendation_service.api.schemas import read_feed_body
    from recommendation_service.catalog.store import CatalogStore
    from recommendation_service.feed.pipeline import FeedPipeline, FeedRequest
    from recommendation_service.ranking.policy import ENDPOINTS, load_policy

    if endpoint not in ENDPOINTS:
        raise typer.BadParameter(f"{endpoint!r} is not one of {', '.join(ENDPOINTS)}", param_hint="--endpoint")
    if request_id is not None and not re.fullmatch(r"[0-9A-Za-z._-]{1,128}", request_id):
        raise typer.BadParameter("must be letters, digits, . _ or -, at most 128", param_hint="--request-id")
    try:
        excluded = read_feed_body(json.dumps({"EXCLUDED_IDS": exclude}).encode()).excluded
    except InvalidRequest as error:
        raise typer.BadParameter(error.details[0]["problem"], param_hint="--exclude") from None
    settings = load_settings()
    store = CatalogStore(settings.catalog_dir, settings.catalog_keep, settings.item_time_zone)
    version = store.named()
    _load_kernels()
    pipeline = FeedPipeline(store.open(version), load_policy(settings.policy_file), settings.feed_seed)
    request = FeedRequest(endpoint, user, size, request_id or secrets.token_hex(16), excluded, explain=True)
    body = pipeline.feed(request)
    if as_json:
        typer.echo(body.decode())
        return
    _print_feed(json.loads(body)["body"], user, version, known=pipeline.user_row(user) >= 0)


def _print_feed(body: dict[str, Any], user: int, version: str, *, known: bool) -> None:
    who = "anonymous" if user == 0 else f"user {user}" + ("" if known else " (not in the catalog)")
    typer.echo(f"Feed of {who}, catalog {version}, request {body['request_id']}")
    rows = []
    for item in body["items"]:
        why = item["why"]
        terms = sorted(why["terms"].items(), key=lambda term: -abs(term[1]))[:3]
        # Other terms, and after feedback what was learned, make up the rest of what is expected.
        rest = why["expected"] - sum(value for _, value in terms)
        parts = [f"{name} {value:.2f}" for name, value in terms]
        parts += [f"{name} {value:.2f}" for name, value in (("rest", rest), ("bonus", why["bonus"])) if value > 0.005]
        rows.append(
            (
                str(why["position"] + 1),
                why["slot"] if why["slot"] == why["pool"] else f"{why['slot']} from {why['pool']}",
                f"{item['type']} {item['id']}\n{item['name']}",
                f"{why['propensity']:.4f}",
                f"{why['score']:.2f}",
                ", ".join(parts),
            )
        )
    print_rows(("#", "slot", "item", "propensity", "score", "made of"), rows, right={0, 3, 4}, whole={0, 3, 4})
    if body["relaxed"]:
        typer.echo(f"Rules that gave way: {', '.join(body['relaxed'])}")


@app.command()
def config(as_json: AsJson = False) -> None:
    """Every setting: its value, unit and origin. Secrets are hidden.

    \b
    $ recs config
    $ recs config --json | jq '.[] | select(.origin != "default")'
    """
    settings = load_settings()
    origins = origins_of(settings)
    rows = []
    for name, field in type(settings).model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        rows.append(
            {
                "setting": name.upper(),
                "value": _shown(settings, name),
                "unit": str(extra.get("unit", "")),
                "origin": origins[name],
                "meaning": field.description or "",
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    print_rows(("setting", "value", "unit", "origin", "meaning"), [tuple(row.values()) for row in rows], whole={0, 3})


def _shown(settings: Settings, name: str) -> str:
    value = getattr(settings, name)
    if value is None or value == ():
        return ""
    if name in {"mysql_password", "admin_token", "database_url", "api_keys"}:
        return "********" if str(value) else ""
    return ",".join(value) if isinstance(value, tuple) else str(value)


def main() -> int:
    """Entry of the command: errors that a person can mend are one sentence, not a traceback."""
    try:
        status = _run()
        if sys.stdout is not None:  # closed by whoever called
            sys.stdout.flush()
    except OSError as error:
        # Python would try again to write what is left, and say what that failed with.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(error, BrokenPipeError):
            return BROKEN_PIPE
        _say(f"Error: {error.filename or 'the output cannot be written'}: {error.strerror}\n")
        return 1
    return status


def _run() -> int:
    try:
        app(standalone_mode=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    except ConfigurationError as error:
        _say("The settings cannot be used:\n" + "".join(f"- {p}\n" for p in error.problems))
        return 2
    except (CatalogError, SourceError, ServiceError) as error:
        _say(f"Error: {error}\n")
        return 1
    except SQLAlchemyError as error:
        original = error.orig if isinstance(error, DBAPIError) else error
        said = getattr(original, "args", ())
        _say(f"Error: the database refused: {said[-1] if said else original}\n")
        return 1
    return 0


def _say(sentence: str) -> None:
    """On standard error, which may be full or closed as well: then the exit status has to do."""
    with contextlib.suppress(OSError, AttributeError):
        sys.stderr.write(sentence)
        sys.stderr.flush()
