"""`recs data user`: what `GET /users/{id}` tells, without the service."""

import asyncio
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.errors import SourceError
from recommendation_service.core.output import print_rows


def user(
    user_id: Annotated[str, typer.Argument(help="The user's id; 0, with --session: an anonymous person.")],
    session: Annotated[str | None, typer.Option(help="Of an anonymous person, with the number 0.")] = None,
    most: Annotated[int, typer.Option(min=1, max=100_000, help="Of recs_events the latest so many.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything, in JSON.")] = False,
) -> None:
    """Everything that the service remembers of a user, on this machine, in Redis and in the database.

    Of a user of whom nothing is known it says so. Exit status 1 where something could not be read.

    \b
    $ recs data user 4711
    $ recs data user 4711 --most 100000 --json > 4711.json
    $ recs data user 0 --session a3f1 --json
    """
    from recommendation_service.catalog.store import CatalogStore
    from recommendation_service.flush.person import Page, Person
    from recommendation_service.flush.tables import make_writing_engine
    from recommendation_service.memory.entries import user_key
    from recommendation_service.memory.user_memory import MemoryFailed, opened
    from recommendation_service.ranking.seen import session_number
    from recommendation_service.serving.remembered import remembered
    from recommendation_service.sources.mapping.words import open_words

    settings = load_settings()
    words = open_words(settings)
    try:
        number = 0 if session is not None and user_id == "0" else words.user_number(user_id)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="USER_ID") from None
    if bool(number) == (session is not None):
        problem = "goes with the user 0, who is nobody without it"
        raise typer.BadParameter(problem, param_hint="--session")
    key = user_key(number, session_number(session))
    store = CatalogStore(settings.catalog_dir, settings.catalog_keep, settings.item_time_zone)
    version = store.current()
    catalog = store.open(version, verify=False) if version is not None else None
    seen = b""
    if key is not None and settings.seen_dir.is_dir():
        try:
            with opened(settings.seen_dir, settings.seen_megabytes << 20) as memory:
                seen = memory.read(key)
        except MemoryFailed as error:
            raise SourceError(f"What the user has seen cannot be read: {error}.") from error
    elsewhere = asyncio.run(_in_redis(settings, key)) if key is not None else None
    engine = make_writing_engine(settings)
    try:
        found = remembered(
            settings,
            engine,
            catalog,
            Person(number, session, user_id if words.users_are_text and number else number),
            Page(most),
            seen,
            words,
            elsewhere,
        )
    finally:
        engine.dispose()
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    past = found.catalog or {"history": [], "creators_in_network": [], "profile": []}
    rows = [
        ("past in the catalog", len(past["history"])),
        ("profile and network in the catalog", len(past["profile"]) + len(past["creators_in_network"])),
        ("items that stay away from feeds", len(found.seen)),
        ("the same in Redis", "none" if found.fleet_seen is None else len(found.fleet_seen)),
        ("events that wait in the log", found.waiting),
        ("events in recs_events", f"{len(found.events)}{' and more' if found.next else ''}"),
        ("decisions", found.decisions),
        ("dead letters", found.dead_letters),
        *((f"learner: {name.replace('_', ' ')}", f"{count:g}") for name, count in found.learner.items()),
    ]
    if not any(count not in {0, "0", "none"} for _, count in rows):
        typer.echo("Nothing is remembered of this person here.")
    else:
        print_rows(("what", "there is"), [(name, str(count)) for name, count in rows], right={1})
        Console().print("--json prints all of it.")
    if found.not_personal:
        typer.echo("Listed in NOT_PERSONAL_TABLE: feeds are not personal.")


async def _in_redis(settings: Settings, key: bytes) -> bytes | None:
    from recommendation_service.core.place import owner_of, space_of
    from recommendation_service.core.redis import open_redis
    from recommendation_service.memory.user_memory import lifetimes_of
    from recommendation_service.serving.fleet_memory import FleetMemory
    from recommendation_service.telemetry.metrics import Metrics

    redis = open_redis(settings, Metrics())
    if redis is None:
        return None
    redis.space = space_of(settings, owner_of(settings.data_dir))
    try:
        fleet = FleetMemory(redis, max(lifetimes_of(settings)))
        return await fleet.read(key, fleet.allowance())
    finally:
        await redis.close()
