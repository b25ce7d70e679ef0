"""`recs`: the service's command line."""

import contextlib
import json
import logging
import os
import re
import secrets
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from recommendation_service import __version__
from recommendation_service.catalog import commands as catalog_commands
from recommendation_service.core.config import Settings, load_settings, origins_of
from recommendation_service.core.errors import (
    ConfigurationError,
    ServiceError,
    SourceError,
    VersionError,
)
from recommendation_service.core.output import print_rows
from recommendation_service.demo import commands as demo_commands
from recommendation_service.doctor import commands as doctor_commands
from recommendation_service.evaluation import commands as evaluation_commands
from recommendation_service.experiments import commands as experiment_commands
from recommendation_service.flush import commands as events_commands
from recommendation_service.flush import data_commands, reader_commands
from recommendation_service.importing import commands as import_commands
from recommendation_service.learning import commands as learning_commands
from recommendation_service.onboarding import commands as source_commands
from recommendation_service.policies import commands as policy_commands
from recommendation_service.serve import serve
from recommendation_service.serving import commands as serving_commands
from recommendation_service.serving import item_commands

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Personal, diverse feeds over the tables you have.",
)
app.add_typer(catalog_commands.app, name="catalog")
app.add_typer(source_commands.app, name="source")
app.add_typer(import_commands.app, name="import")
app.add_typer(policy_commands.app, name="policy")
app.add_typer(experiment_commands.app, name="experiment")
app.add_typer(item_commands.app, name="items")
app.add_typer(demo_commands.app, name="demo")
app.add_typer(evaluation_commands.app, name="evaluate")
app.add_typer(events_commands.app, name="events")
events_commands.app.add_typer(reader_commands.app, name="readers")
events_commands.app.command()(reader_commands.follow)
app.add_typer(data_commands.app, name="data")
data_commands.app.command()(serving_commands.user)
app.command()(doctor_commands.doctor)
app.command()(events_commands.migrate)
app.add_typer(learning_commands.app, name="learn")
app.command()(serve)

INSTALLATION = Path(__file__).resolve().parents[1]
BROKEN_PIPE = 141  # what a shell says of a program whose reader has gone: 128 and SIGPIPE


class Language(StrEnum):
    """Of sentences, as feed/sentences.py has them."""

    EN = "en"
    ES = "es"


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def recs(
    context: typer.Context,
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
    if context.invoked_subcommand not in {"config", None} and "--help" not in sys.argv:
        _say_where()


def _say_where() -> None:
    """A command of another folder than the installation's, without DATA_DIR, finds nothing and may begin a new one."""
    settings = load_settings()
    if origins_of(settings)["data_dir"] == "default" and not settings.data_dir.exists() and Path.cwd() != INSTALLATION:
        typer.echo(
            f"DATA_DIR is unset: the service's files are looked for, and written, in {settings.data_dir.absolute()}. "
            f"For those of the installation, run this in {INSTALLATION}, or set DATA_DIR.",
            err=True,
        )


@app.command()
def feed(
    user: Annotated[str | None, typer.Argument(help="The user's id; 0 is anonymous.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="total, discover or flow; or the name of a feed.")] = None,
    size: Annotated[int | None, typer.Option(min=1, max=100, help="How many items.")] = None,
    exclude: Annotated[str, typer.Option(help="Comma-separated ids of items that must not come back.")] = "",
    request_id: Annotated[
        str | None,
        typer.Option(help="The same one gives the same feed on the same catalog. Default: a new one."),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="A policy file, or a version of `recs policy list`. Default: the policy that serves."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say in sentences why each item is there, with its estimate.")
    ] = False,
    missing: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE:ID", help="Say why this item is not in it; may be given several times."),
    ] = None,
    lang: Annotated[Language, typer.Option(help="Of sentences.")] = Language.EN,
    users: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Feeds of many users: their ids, a line each; - for standard input."),
    ] = None,
    record: Annotated[
        bool,
        typer.Option("--record", help="With --users: the feeds are shown. A running service makes and records them."),
    ] = False,
    url: Annotated[
        str | None, typer.Option(help="With --record: the service. Default: at API_PORT of this machine.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a user's feed here, from the current catalog, and show why each item is in it. Nothing of it is recorded,
    remembered or counted.

    \b
    $ recs feed 4711
    $ recs feed 0 --endpoint discover --size 10
    $ recs feed 4711 --request-id 1f0c… --json
    $ recs feed 4711 --policy bolder.toml
    $ recs feed 4711 --explain --lang es --missing TYPE:812
    $ recs feed --users due-today.txt --size 6 --json > mails.jsonl
    $ psql -Atc 'SELECT id FROM subscribers' | recs feed --users - --size 6 --record --json > mails.jsonl
    """
    if users is not None:
        from recommendation_service.many_feeds import feeds_of_many

        alone: dict[str, Any] = {"USER": user, "--request-id": request_id, "--policy": policy, "--missing": missing}
        alone |= {"--exclude": exclude or None, "--explain": explain or None}
        if not_for_many := [name for name, value in alone.items() if value is not None]:
            raise typer.BadParameter(f"goes with one user: {', '.join(not_for_many)} cannot", param_hint="--users")
        raise typer.Exit(feeds_of_many(users, endpoint, size, lang.value, record=record, url=url, as_json=as_json))
    if user is None:
        raise typer.BadParameter("is missing: name a user, or a file of many by --users", param_hint="USER")
    from recommendation_service.one_feed import feed_of_one

    if request_id is not None and not re.fullmatch(r"[0-9A-Za-z._-]{1,128}", request_id):
        raise typer.BadParameter("must be letters, digits, . _ or -, at most 128", param_hint="--request-id")
    feed_of_one(
        user,
        endpoint,
        size,
        exclude,
        request_id or secrets.token_hex(16),
        policy,
        missing or (),
        lang.value,
        explain=explain,
        as_json=as_json,
    )


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
    except (VersionError, SourceError, ServiceError) as error:
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
