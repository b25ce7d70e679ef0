"""`recs data …`: whose DATA_DIR is, and to make it another database's."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.errors import SourceError
from recommendation_service.core.output import print_rows

app = typer.Typer(no_args_is_help=True, help="DATA_DIR: which database it belongs to, and what it holds.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

# What the service makes in DATA_DIR, and no person does.
MADE = ("catalogs", "events", "decisions", "learning", "seen", "database", "metrics", "place.json", "place.lock")
SIZED = ("catalogs", "policies", "events", "decisions", "learning", "seen")


@app.command()
def show(as_json: AsJson = False) -> None:
    """Whose the folder is, what it holds, and whether it is the settings' database's. Exit status 1 where it is not.

    \b
    $ recs data show
    $ recs data show --json | jq .problem
    """
    from recommendation_service.core.holding import holder_of
    from recommendation_service.core.place import (
        Owner,
        WrongPlace,
        check_only,
        database_name,
        identity_of,
        owner_of,
        space_of,
    )

    settings = load_settings()
    folder = settings.data_dir
    engine = _engine(settings)
    try:
        answers, identity = identity_of(engine)
    finally:
        engine.dispose()
    owner, problem = None, None
    try:
        owner = owner_of(folder)
        check_only(settings, owner, answers, identity)
    except WrongPlace as error:
        problem = str(error)
    database = Owner(database_name(settings.source_url), identity)
    found: dict[str, Any] = {
        "folder": str(folder.absolute()),
        "belongs_to": {"database": owner.database, "identity": owner.identity} if owner else None,
        "settings_name": {"database": database.database, "identity": identity, "answers": answers},
        "problem": problem,
        "held_by": holder_of(folder) or None,
        "redis_space": space_of(settings, owner),
        "bytes": {name: _bytes(folder / name) for name in SIZED},
        "events_wait": _events_wait(settings.events_dir),
        "dead_letters": _dead_letters(settings.events_dir),
    }
    if as_json:
        typer.echo(json.dumps(found))
    else:
        wait = {True: "some that no database has", False: "none", None: "cannot be read"}[found["events_wait"]]
        print_rows(
            ("", ""),
            [
                ("folder", found["folder"]),
                ("belongs to", str(owner) if owner else "no database yet"),
                ("the settings name", str(database) + ("" if answers else ", which cannot be asked")),
                ("problem", problem or "none"),
                ("held by", found["held_by"] or "nobody"),
                ("space in Redis", found["redis_space"]),
                ("events that wait", wait),
                ("dead letters", f"{found['dead_letters']:,}"),
                *((name, f"{size:,} bytes") for name, size in found["bytes"].items()),
            ],
        )
    if problem is not None:
        raise typer.Exit(1)


@app.command()
def adopt(yes: Yes = False, as_json: AsJson = False) -> None:
    """Say that the folder belongs to the settings' database from now on; events that wait there go into it.

    For the same database under another name, moved or restored. A running service goes on within seconds.

    \b
    $ recs data adopt
    """
    from recommendation_service.core.place import WrongPlace, database_name, owner_of
    from recommendation_service.core.place import adopt as take_over

    settings = load_settings()
    try:
        owner = owner_of(settings.data_dir)
    except WrongPlace:
        owner = None
    name = database_name(settings.source_url)
    waits = " Events wait there: they will be brought into it." if _events_wait(settings.events_dir) else ""
    _confirm(f"{settings.data_dir} belongs to {owner or 'no database yet'}. Make it {name}'s?{waits}", yes=yes)
    engine = _engine(settings)
    try:
        owner = take_over(settings, engine)
    except OSError as error:
        raise _failed(settings.data_dir, error) from error
    finally:
        engine.dispose()
    if as_json:
        typer.echo(json.dumps({"database": owner.database, "identity": owner.identity}))
    else:
        typer.echo(f"{settings.data_dir} belongs to {owner} now.")


@app.command()
def empty(
    yes: Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Also events that no database has: they are lost.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what the service made in the folder; blacklist and embedded database stay. Not while a service runs.

    \b
    $ recs events flush && recs data empty
    """
    from recommendation_service.core.holding import hold_alone, holder_of

    settings = load_settings()
    folder = settings.data_dir
    if not folder.is_dir():
        raise SourceError(f"There is no folder {folder}.")
    try:
        held = hold_alone(folder)
    except OSError as error:
        raise _failed(folder, error) from error
    if held is None:
        raise SourceError(f"{folder} is held by {holder_of(folder)}: stop the service first.")
    try:
        if not force:
            _refuse_to_lose(settings)
        lost = " Events that no database has are lost." if force else ""
        _confirm(f"Remove {', '.join(name for name in MADE if (folder / name).exists())} of {folder}?{lost}", yes=yes)
        removed = []
        for name in MADE:
            path = folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif os.path.lexists(path):
                path.unlink()
            else:
                continue
            removed.append(name)
    except OSError as error:
        raise _failed(folder, error) from error
    finally:
        os.close(held)
    if as_json:
        typer.echo(json.dumps({"removed": removed}))
    else:
        typer.echo(f"Removed {', '.join(removed)} of {folder}." if removed else f"{folder} holds nothing.")


def _refuse_to_lose(settings: Settings) -> None:
    dead = _dead_letters(settings.events_dir)
    if _events_wait(settings.events_dir) is not False:
        raise SourceError(
            f"Events of {settings.events_dir} wait that no database has: `recs events flush` brings them in (with the "
            "database that the folder belongs to). --force removes them for ever."
        )
    if dead:
        raise SourceError(
            f"{dead:,} dead letters are in {settings.events_dir}: `recs events dead --replay` tries them again. "
            "--force removes them for ever."
        )


def _events_wait(folder: Path) -> bool | None:
    """Whether the log has records that were not flushed; None: it cannot be read."""
    from recommendation_service.log.marks import FLUSH, Mark, MarkDamaged, read_mark
    from recommendation_service.log.tail import LogTail

    try:
        tail = LogTail(folder, (read_mark(folder, FLUSH) or Mark()).places)
        records = tail.read(1, 1)
    except (OSError, MarkDamaged):
        return None
    return None if tail.unreadable else bool(records)


def _dead_letters(folder: Path) -> int:
    from recommendation_service.flush.dead_letters import DeadLetters

    try:
        return len(DeadLetters(folder).all())
    except OSError as error:
        raise _failed(folder, error) from error


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise SourceError(f"{question} Nobody can be asked here: say --yes.")
    typer.confirm(question, abort=True, err=True)


def _engine(settings: Settings) -> Any:
    from recommendation_service.core.database import make_engine

    return make_engine(settings)


def _failed(folder: Path, error: OSError) -> SourceError:
    return SourceError(f"{error.filename or folder} cannot be used: {error.strerror}.")
