"""`recs items …`: editors pin items to places, bury them and take them down."""

import json
import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.errors import InvalidRequest
from recommendation_service.core.output import print_rows
from recommendation_service.policies.changing import AsJson, By, deed_of

if TYPE_CHECKING:
    # What only prints its help loads no arrays.
    from recommendation_service.editors.rulings import Ruling
    from recommendation_service.serving.editing import Known

app = typer.Typer(no_args_is_help=True, help="Editors: items pinned to a place, buried, taken down.")

Item = Annotated[str, typer.Argument(metavar="TYPE:ID", help="As job:812, with the id as the tables have it.")]
Why = Annotated[str, typer.Option(help="The reason, for the history.")]
Feed = Annotated[str | None, typer.Option(metavar="NAME", help="In this feed alone. Default: in all.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="When it ends, with its zone: 2026-12-24T18:00:00Z.")]
For = Annotated[str | None, typer.Option("--for", metavar="SPAN", help="How long, as 90m, 12h or 3d.")]
Expect = Annotated[
    int | None, typer.Option(metavar="NUMBER", help="Change nothing unless this is the number that `list` shows.")
]
Here = Annotated[
    bool,
    typer.Option("--here", help="Where Redis does not answer: on this machine, and on the others once it does."),
]

_SPAN = re.compile(r"([0-9]{1,6})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


@app.command()
def pin(
    item: Item,
    feed: Annotated[str, typer.Option(metavar="NAME", help="The feed.")],
    place: Annotated[int, typer.Option(min=1, max=100, help="The place in it, from 1.")],
    why: Why,
    until: Until = None,
    span: For = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place from what is pinned there.")] = False,
    by: By = None,
    expect: Expect = None,
    here: Here = False,
    as_json: AsJson = False,
) -> None:
    """Show an item at a place of a feed, for a time: to each person once, as what was shown stays away for a while.

    \b
    $ recs items pin job:812 --feed home --place 1 --for 3d --why "the opening"
    """
    asked = {"action": "pin", "feed": feed, "place": place, "until": _end(until, span), "why": why}
    _rule(item, asked, by, replace=replace, expect=expect, here=here, as_json=as_json)


@app.command()
def bury(
    item: Item,
    why: Why,
    feed: Feed = None,
    until: Until = None,
    span: For = None,
    by: By = None,
    expect: Expect = None,
    here: Here = False,
    as_json: AsJson = False,
) -> None:
    """Bring an item forward no more: in no feed, or not in one of them.

    \b
    $ recs items bury job:105 --feed home --for 2d --why "a test"
    """
    asked = {"action": "bury", "feed": feed, "until": _end(until, span), "why": why}
    _rule(item, asked, by, expect=expect, here=here, as_json=as_json)


@app.command()
def takedown(
    item: Item,
    why: Why,
    until: Until = None,
    span: For = None,
    by: By = None,
    expect: Expect = None,
    here: Here = False,
    as_json: AsJson = False,
) -> None:
    """Show an item nowhere any more, in no feed and in no list, within a second.

    \b
    $ recs items takedown job:812 --why "it is somebody else's"
    """
    asked = {"action": "takedown", "until": _end(until, span), "why": why}
    _rule(item, asked, by, expect=expect, here=here, as_json=as_json)


@app.command()
def release(
    item: Item,
    why: Why,
    feed: Feed = None,
    by: By = None,
    expect: Expect = None,
    here: Here = False,
    as_json: AsJson = False,
) -> None:
    """End what was ruled of an item.

    \b
    $ recs items release job:812 --why "it is theirs after all"
    """
    _rule(item, {"action": "release", "feed": feed, "why": why}, by, expect=expect, here=here, as_json=as_json)


@app.command("list")
def list_rulings(as_json: AsJson = False) -> None:
    """What holds now, with who ruled it, why and until when.

    \b
    $ recs items list --json | jq .number
    """
    from recommendation_service.editors.store import RulingsStore
    from recommendation_service.serving.editing import told

    state, problem = RulingsStore(load_settings().editors_dir).read()
    held = [told(one) for one in state.in_force(time.time())]
    if as_json:
        typer.echo(json.dumps({"number": state.number, "problem": problem, "rulings": held}, ensure_ascii=False))
        return
    if problem is not None:
        typer.secho(f"Warning: {problem}.", fg=typer.colors.YELLOW, err=True)
    if not held:
        typer.echo("Nothing is ruled: `recs items pin`, `bury` and `takedown` do.")
        return
    print_rows(("item", "", "where", "until", "who", "why", "since"), [_row(one) for one in held], whole={0, 1})
    typer.echo(f"This is state {state.number}.")


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    place = f", place {one['place']}" if one["place"] else ""
    where = f"{one['feed'] or 'everywhere'}{place}"
    until = one["until"] or ("" if one["action"] == "release" else "released")
    return (f"{one['type']}:{one['id']}", one["action"], where, until, one["who"], one["why"], one["when"])


@app.command()
def history(
    item: Annotated[str | None, typer.Argument(metavar="[TYPE:ID]", help="Of this item. Default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Who ruled what, when and why; the latest first. None of it is ever changed or removed.

    \b
    $ recs items history job:812
    """
    from recommendation_service.editors.store import RulingsStore
    from recommendation_service.serving.editing import entries_of, told_entry

    settings = load_settings()
    entries = RulingsStore(settings.editors_dir).history()
    try:
        found = [told_entry(one) for one in entries_of(entries, item, lambda: _known(settings))]
    except InvalidRequest as error:
        raise typer.BadParameter(error.details[0]["problem"], param_hint="[TYPE:ID]") from None
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    if not found:
        typer.echo("Nothing was ruled yet." if item is None else f"Nothing was ruled of {item} yet.")
        return
    rows = [(str(one["number"]), *_row(one)) for one in found]
    print_rows(("#", "item", "", "where", "until", "who", "why", "when"), rows, right={0}, whole={0, 1, 2})


def _rule(
    item: str,
    asked: dict[str, Any],
    by: str | None,
    *,
    replace: bool = False,
    expect: int | None,
    here: bool,
    as_json: bool,
) -> None:
    from recommendation_service.serving.editing import opened, ruling_of, told

    settings = load_settings()
    there = _known(settings)
    deed = deed_of(asked["why"], by)
    try:
        ruling = ruling_of({**asked, **_item(item, there), "who": deed.who}, there, time.time())
    except InvalidRequest as error:
        told_wrong = "; ".join(f"{one['field']} {one['problem']}" for one in error.details)
        raise typer.BadParameter(told_wrong) from None
    with opened(settings) as store:
        state, is_told = store.rule(ruling, replace=replace, expect=expect, alone=here)
    is_there = _is_in_catalog(settings, ruling)
    if as_json:
        content = {"number": state.number, "ruling": told(ruling), "in_catalog": is_there}
        typer.echo(json.dumps({**content, "fleet_told": is_told if settings.has_redis else None}, ensure_ascii=False))
    else:
        typer.echo(f"{_in_words(ruling)} (state {state.number}).")
    if settings.has_redis and not is_told:
        typer.secho("Warning: Redis does not answer: other machines will know once it does.", fg="yellow", err=True)
    if not is_there and ruling.action != "release":
        typer.secho(f"Note: the current catalog has no {ruling.item}: it holds once one has.", err=True)


def _known(settings: Settings) -> "Known":
    from recommendation_service.policies.choice import PolicyChoice
    from recommendation_service.serving.editing import known
    from recommendation_service.sources.mapping.mapping import load_mapping

    mapping = load_mapping(settings.mapping_file) if settings.mapping_file is not None else None
    return known(mapping, PolicyChoice(settings).take_up().policy)


def _item(text: str, there: "Known") -> dict[str, Any]:
    """Type and id as a request has them."""
    name, _, given = text.partition(":")
    is_text = there.types.get(name, (0, True))[1]
    is_number = given.isascii() and given.isdigit() and len(given) < 20
    return {"type": name, "id": int(given) if is_number and not is_text else given}


def _end(until: str | None, span: str | None) -> str | None:
    if until is not None and span is not None:
        raise typer.BadParameter("say --until or --for, not both", param_hint="--for")
    if span is None:
        return until
    found = _SPAN.fullmatch(span)
    if found is None:
        raise typer.BadParameter(f"must be a number with m, h or d, as 12h, but is {span!r}", param_hint="--for")
    try:
        return (datetime.now(UTC) + timedelta(**{_UNITS[found[2]]: int(found[1])})).isoformat()
    except OverflowError:
        raise typer.BadParameter(f"is longer than there is time: {span}", param_hint="--for") from None


def _in_words(ruling: "Ruling") -> str:
    from recommendation_service.core.local_time import utc_text

    where = f"the feed {ruling.feed}" if ruling.feed else "all feeds"
    until = f" until {utc_text(ruling.until)}" if ruling.until else ""
    return {
        "pin": f"{ruling.item} is at place {ruling.place} of {where}{until}",
        "bury": f"{ruling.item} is buried in {where}{until}",
        "takedown": f"{ruling.item} is taken down{until}",
        "release": f"{ruling.item} is released in {where}",
    }[ruling.action]


def _is_in_catalog(settings: Settings, ruling: "Ruling") -> bool:
    from recommendation_service.catalog.store import CatalogStore
    from recommendation_service.core.errors import CatalogError

    store = CatalogStore(settings.catalog_dir, settings.catalog_keep, settings.item_time_zone)
    try:
        version = store.current()
        return version is not None and store.open(version, verify=False).row_of(ruling.key) >= 0
    except CatalogError:
        return False
