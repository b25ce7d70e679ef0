"""`recs catalog …`: build, list, verify and look into catalog versions."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.errors import CatalogError
from recommendation_service.core.output import print_rows
from recommendation_service.mappings.answers import ITEM_COUNTS
from recommendation_service.versions.commands import tell_what_is_wrong

app = typer.Typer(no_args_is_help=True, help="Catalog versions: what feeds are served from.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Version = Annotated[str | None, typer.Argument(metavar="[VERSION]", help="Default: the current one.")]


@app.command()
def build(
    as_json: AsJson = False,
    force: Annotated[bool, typer.Option("--force", help="Publish it even where most items are gone.")] = False,
) -> None:
    """Build a catalog from the database now, and publish it.

    Running workers take it up by themselves within a second. One that would lose most of its items at once is held
    back, with exit status 1.

    \b
    $ recs catalog build
    $ recs catalog build --force
    $ recs catalog build --json | jq .set_aside
    """
    from recommendation_service.catalog.hold import read_held

    settings = load_settings()
    store = _store()
    version = publish_catalog(settings, Console(stderr=True, quiet=as_json), force=force)
    if held := read_held(store.folder):
        raise CatalogError(f"The new catalog is held back: {held.reason}. `recs catalog build --force` publishes it.")
    report = store.manifest(version)["report"]
    if as_json:
        typer.echo(json.dumps({"version": version, **report}, ensure_ascii=False))
        return
    typer.echo(f"Published {version}")
    _print_report(report)


def publish_catalog(settings: Settings, console: Console, *, force: bool = False) -> str:
    """Build and publish, saying on ``console`` what is being done; gives the version that is current then."""
    from recommendation_service.catalog.builder import build_catalog
    from recommendation_service.catalog.hold import Holder
    from recommendation_service.core.clock import Clock
    from recommendation_service.core.database import make_engine
    from recommendation_service.core.place import check
    from recommendation_service.mappings.opening import open_source
    from recommendation_service.policies.choice import PolicyChoice

    store = CatalogStore(settings.catalog_dir, settings.catalog_keep, settings.item_time_zone)
    policy = PolicyChoice(settings).take_up().policy
    engine = make_engine(settings)
    check(settings, engine)
    source = open_source(settings, engine)
    clock = Clock(settings.data_dir, settings.clock_tolerance_seconds)
    moment = datetime.fromtimestamp(clock.now(), UTC)
    with console.status("Waiting for another build to end") as status, store.build_lock():
        status.update("Reading the tables and building the catalog")
        built = build_catalog(source, settings, policy, moment)
        return Holder(settings, source, store, clock).publish(built, policy, force=force)


@app.command("list")
def list_versions(as_json: AsJson = False) -> None:
    """The versions on disk, newest first.

    \b
    $ recs catalog list
    """
    store = _store()
    current = store.current()
    rows: list[dict[str, Any]] = []
    for version in reversed(store.versions()):
        try:
            manifest = store.manifest(version)
        except CatalogError as error:
            rows.append({"version": version, "current": version == current, "problem": str(error)})
            continue
        size = sum(file["bytes"] for file in manifest["files"].values())
        rows.append(
            {
                "version": version,
                "current": version == current,
                "policy": manifest["policy_version"],
                "bytes": size,
                "counts": manifest["report"]["counts"],
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    if not rows:
        typer.echo(f"No catalog in {store.folder}: run `recs catalog build`.")
        return
    items = list(dict.fromkeys(name for row in rows if "counts" in row for name in _items(row["counts"])))
    print_rows(
        ("version", "", *items, "users", "size", "policy"),
        [_listed(row, items) for row in rows],
        right=set(range(2, 4 + len(items))),
    )
    for row in rows:
        if "problem" in row:
            typer.echo(f"{row['version']}: {row['problem']}")


def _items(counts: dict[str, int]) -> dict[str, int]:
    """How many items a catalog has, by what its build calls them."""
    return {name: counts[name] for name in (*ITEM_COUNTS, "items") if name in counts}


def _listed(row: dict[str, Any], items: Sequence[str]) -> tuple[str, ...]:
    if "problem" in row:
        return (row["version"], "damaged", *("" for _ in items), "", "", "")
    counts = row["counts"]
    found = _items(counts)
    return (
        row["version"],
        "current" if row["current"] else "",
        *(f"{found[name]:,}" if name in found else "" for name in items),
        f"{counts['known_users']:,}",
        f"{row['bytes'] / 1e6:,.1f} MB",
        row["policy"],
    )


@app.command()
def verify(version: Version = None, as_json: AsJson = False) -> None:
    """Check sizes and checksums of a version's files; exit status 1 where something is wrong.

    \b
    $ recs catalog verify
    """
    store = _store()
    tell_what_is_wrong(store, store.named(version), as_json=as_json)


@app.command()
def show(
    version: Version = None,
    item: Annotated[str | None, typer.Option(metavar="TYPE:ID", help="An item, by its type and id.")] = None,
    user: Annotated[str | None, typer.Option(help="A user, by id.")] = None,
    as_json: AsJson = False,
) -> None:
    """What is in a version: its report, or one item or user of it.

    \b
    $ recs catalog show
    $ recs catalog show --item TYPE:812      # of one that is not there, the rule that keeps it out
    $ recs catalog show --user 4711 --json
    """
    from recommendation_service.catalog.dictionary import open_dictionary
    from recommendation_service.catalog.inspection import describe_item, describe_user, read_item
    from recommendation_service.sources.mapping.words import open_words

    store, settings = _store(), load_settings()
    version = store.named(version)
    catalog = store.open(version)
    names = store.names(version)
    if item is not None:
        try:
            wanted = read_item(item, catalog.item_types, catalog.text_types)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--item") from None
        words = open_dictionary(settings, open_words(settings)).words
        _print(describe_item(catalog, names, wanted, words), as_json)
    elif user is not None:
        try:
            number = open_words(settings).user_number(user)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--user") from None
        _print(describe_user(catalog, names, number, user if catalog.user_texts is not None else number), as_json)
    elif as_json:
        typer.echo(json.dumps({"version": version, **catalog.manifest}, ensure_ascii=False))
    else:
        _print_manifest(catalog)


def _store() -> CatalogStore:
    settings = load_settings()
    return CatalogStore(settings.catalog_dir, settings.catalog_keep, settings.item_time_zone)


def _print(described: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(described, ensure_ascii=False))
    else:
        Console().print_json(json.dumps(described, ensure_ascii=False))


def _print_manifest(catalog: Catalog) -> None:
    manifest = catalog.manifest
    typer.echo(f"{catalog.version}, policy {manifest['policy_version']}, built {manifest['built_at']}")
    _print_report(manifest["report"])
    if catalog.rejected is not None and len(catalog.rejected.keys):
        counts = zip(catalog.rejected.names, np.bincount(catalog.rejected.rules).tolist(), strict=False)
        print_rows(
            ("rule", "rows"), [(rule, f"{count:,}") for rule, count in counts if count], title="Kept out", right={1}
        )


def _print_report(report: dict[str, Any]) -> None:
    counts = [(name, f"{count:,}") for name, count in report["counts"].items()]
    print_rows(("what", "rows"), counts, title="Counts", right={1})
    times = [(name, f"{milliseconds:,.1f}") for name, milliseconds in report["query_milliseconds"].items()]
    times.append(("all queries", f"{sum(report['query_milliseconds'].values()):,.1f}"))
    times.append(("building", f"{report['build_milliseconds']:,.1f}"))
    print_rows(("query", "milliseconds"), times, title="Times", right={1})
    if listed := report.get("not_personal", {}).get("users"):
        typer.echo(f"{listed:,} users in NOT_PERSONAL_TABLE get feeds that are not personal.")
    if together := report.get("collaborative"):  # a version of an earlier release says nothing of it
        print_rows(("what", "is"), [(name, f"{value}") for name, value in together.items()], title="Taken together")
    if measured := report.get("measured"):
        print_rows(("what", "is"), [(name, f"{value}") for name, value in measured.items()], title="Measured")
    if report["set_aside"]:
        aside = [(entry["column"], entry["reason"], f"{entry['count']:,}") for entry in report["set_aside"]]
        print_rows(("column", "reason", "count"), aside, title="Set aside", right={2})
    for warning in report["warnings"]:
        typer.secho(f"Warning: {warning}", fg=typer.colors.YELLOW)
