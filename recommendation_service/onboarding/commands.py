"""`recs source …`: a mapping for a database, checked, and written for one never seen before."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.output import print_rows

if TYPE_CHECKING:
    from recommendation_service.doctor.findings import Finding
    from recommendation_service.doctor.queries import PlanStep
    from recommendation_service.onboarding.examination import CheckReport
    from recommendation_service.sources.mapping.mapping import Mapping

app = typer.Typer(no_args_is_help=True, help="Your tables: the mapping that says what they mean.")

FAILED = 1
LONGEST_LINE = 100  # characters of an item in a feed that is shown
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.callback()
def source() -> None:
    """Your tables: the mapping that says what they mean."""


@app.command()
def schema() -> None:
    """The JSON schema of mappings, with which editors complete and check them.

    \b
    $ recs source schema > mapping.schema.json
    $ sed -i '1i #:schema mapping.schema.json' mapping.toml
    """
    from recommendation_service.sources.mapping.schema import schema_text

    typer.echo(schema_text(), nl=False)


@app.command()
def init(
    database: Annotated[str, typer.Argument(metavar="DATABASE_URL", help="As mysql://reader@db.internal/shop.")],
    output: Annotated[Path, typer.Option(help="Where the mapping is written; - prints it.")] = Path("mapping.toml"),
    users: Annotated[str | None, typer.Option(metavar="TABLE", help="The table of people. Default: found out.")] = None,
    items: Annotated[list[str] | None, typer.Option(metavar="TABLE", help="A table of what may be shown.")] = None,
    events: Annotated[list[str] | None, typer.Option(metavar="TABLE", help="A table of who did what.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over a mapping that is there.")] = False,
) -> None:
    """Look at a database, and write a mapping of it that works; or say what could not be told.

    Looks at tables, keys, row counts and a sample of each, and changes nothing there. The address and its password are
    neither written nor printed. What was written is run as by `recs source check`, whose exit status it has.

    \b
    $ recs source init sqlite:////tmp/jobs.sqlite
    $ recs source init mysql://reader:…@db.internal/shop --output shop.toml
    $ recs source init mysql://reader:…@db.internal/shop --users customers --items products --events order_lines
    """
    from recommendation_service.core.database import make_engine
    from recommendation_service.core.files import write_whole
    from recommendation_service.onboarding.examination import check_mapping
    from recommendation_service.onboarding.initial import Chosen, first_mapping
    from recommendation_service.sources.mapping.mapping import load_mapping

    is_printed = str(output) == "-"
    if output.exists() and not replace and not is_printed:
        typer.echo(f"{output} is there: name another by --output, or write over it by --replace.", err=True)
        raise typer.Exit(FAILED)
    settings = _settings(database)
    engine = make_engine(settings)
    chosen = Chosen(users, tuple(items or ()), tuple(events or ()))
    try:
        with Console(stderr=True).status("Connecting") as status:
            initial = first_mapping(engine, chosen, status.update)
            if initial.text is not None and not is_printed:
                write_whole(output, initial.text)
                report = check_mapping(load_mapping(output), engine, settings, status.update)
    finally:
        engine.dispose()
    for part, found in initial.found.items():
        typer.echo(f"{part:>8}  {found}", err=is_printed)
    for untold in initial.untold:
        typer.secho(f"It could not be told {untold}.", fg=typer.colors.YELLOW, err=True)
    if initial.text is None:
        raise typer.Exit(FAILED)
    if is_printed:
        typer.echo(initial.text, nl=False)
        return
    for finding in report.findings:
        if finding.severity.value != "info":
            _print_finding(finding)
    for problem in report.problems:
        typer.secho(f"Problem: {problem}", fg=typer.colors.RED)
    typer.echo(
        f"\nWritten: {output}, {len(initial.text.splitlines())} lines. Next, with the address that you gave:\n"
        f"export MAPPING_FILE={shlex.quote(str(output))} DATABASE_URL=…\nrecs source check\nrecs serve"
    )
    raise typer.Exit(report.status)


@app.command()
def check(
    mapping: Annotated[Path | None, typer.Argument(help="A mapping. Default: that of MAPPING_FILE.")] = None,
    database: Annotated[
        str | None, typer.Option("--database", metavar="URL", help="Its database. Default: that of the settings.")
    ] = None,
    feeds: Annotated[bool, typer.Option(help="Make five feeds as people would see them.")] = True,
    as_json: AsJson = False,
) -> None:
    """Run everything of a mapping once, and say what a catalog of it would be. Nothing is written or published.

    Of each query rows, kinds of values, nulls, different ones, and how the database reads it, for all and for one user;
    what was set aside and why; some items and feeds as people would see them. All problems are told at once, with their
    lines. Exit status: 0 where a catalog can be built, 1 where not, or where something is wrong.

    \b
    $ recs source check
    $ recs source check mapping.toml --database mysql://reader@db.internal/shop
    $ recs source check --json | jq '.problems[] | {file, line, said, instead}'
    """
    from recommendation_service.core.database import make_engine
    from recommendation_service.onboarding.examination import CheckReport, check_mapping
    from recommendation_service.sources.mapping.mapping import MappingError, load_mapping

    settings = _settings(database)
    path = mapping or settings.mapping_file
    if path is None:
        raise typer.BadParameter(
            "name a mapping, or set MAPPING_FILE; `recs source init` writes one", param_hint="[MAPPING]"
        )
    is_named = bool(settings.mysql_host or settings.database_url)
    if not is_named and not Path(str(settings.source_url.database)).exists():
        raise typer.BadParameter("name its database, or set DATABASE_URL (or MYSQL_HOST)", param_hint="--database")
    loaded: Mapping | None = None
    try:
        loaded = load_mapping(path)
    except MappingError as error:
        report = CheckReport(str(path), "", list(error.found))
    if loaded is not None:
        engine = make_engine(settings)
        try:
            with Console(stderr=True, quiet=as_json).status("Connecting") as status:
                report = check_mapping(loaded, engine, settings, status.update, with_feeds=feeds)
        finally:
            engine.dispose()
    if as_json:
        typer.echo(json.dumps(_as_dict(report), ensure_ascii=False, default=str))
    else:
        _print(report)
    raise typer.Exit(report.status)


def _settings(database: str | None) -> Settings:
    if database is None:
        return load_settings()
    return load_settings(database_url=database, mysql_host=None, mysql_user=None)


def _as_dict(report: "CheckReport") -> dict[str, Any]:
    return {
        "status": report.status,
        "mapping": report.mapping,
        "database": report.database,
        "problems": [problem.as_dict() for problem in report.problems],
        "findings": [asdict(finding) for finding in report.findings],
        "queries": [asdict(query) for query in report.queries],
        "set_aside": report.set_aside,
        "items": {name: [asdict(item) for item in items] for name, items in report.items.items()},
        "feeds": [asdict(feed) for feed in report.feeds],
    }


def _print(report: "CheckReport") -> None:
    typer.echo(f"{report.mapping}{f' on {report.database}' if report.database else ''}\n")
    if report.queries:
        rows = [
            (
                query.section,
                f"{query.rows:,}",
                f"{query.milliseconds:,.0f}",
                _read(query.plan),
                "" if query.user_plan is None else _read(query.user_plan),
            )
            for query in report.queries
        ]
        print_rows(("query", "rows", "ms", "reads", "of one user"), rows, title="Queries", right={1, 2})
        columns = [
            (query.section, column.name, ", ".join(column.kinds), f"{column.nulls:,}", f"{column.different:,}")
            for query in report.queries
            for column in query.columns
        ]
        print_rows(("query", "column", "holds", "nulls", "different"), columns, title="Columns", right={3, 4})
    if report.set_aside:
        aside = [(one["section"], one["column"], one["reason"], f"{one['count']:,}") for one in report.set_aside]
        print_rows(("query", "column", "reason", "values"), aside, title="Set aside", right={3})
    for name, items in report.items.items():
        shown = [
            (
                str(item.id),
                item.time or "",
                ", ".join(f"{column} {value}" for column, value in item.fields.items()),
                "; ".join(f"{vocabulary}: {', '.join(terms)}" for vocabulary, terms in item.terms.items() if terms),
            )
            for item in items
        ]
        if shown:
            print_rows(("id", "time", "fields", "terms"), shown, title=f"Some {name}s, the newest first")
    for feed in report.feeds:
        who = "somebody unknown" if feed.user is None else f"user {feed.user}"
        title = f"Feed {feed.feed} of {who}"
        if feed.latest:
            title += f", who took last: {'; '.join(map(_named, feed.latest))}"
        print_rows(("", ""), [(str(place), _named(item)) for place, item in enumerate(feed.items, 1)], title=title)
    for finding in report.findings:
        _print_finding(finding)
    for problem in report.problems:
        typer.secho(f"Problem: {problem}", fg=typer.colors.RED)
    if report.status:
        typer.echo("\nA catalog cannot be built of it, or not as it is meant: mend what is red.")
    else:
        typer.echo("\nA catalog can be built of it.")


def _named(item: dict[str, Any]) -> str:
    """An item in a line, which may be cut: its type, and its first field, or else its id."""
    item_type, one, *fields = item.values()
    line = " ".join(f"{item_type} {fields[0] if fields else one}".split())
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…"


def _read(plan: "list[PlanStep]") -> str:
    """Each table, and by which index."""
    return ", ".join(
        f"{step.table} {'whole' if step.access == 'ALL' else f'by {step.key or step.access}'}" for step in plan
    )


def _print_finding(finding: "Finding") -> None:
    colors = {"ok": typer.colors.GREEN, "info": typer.colors.CYAN, "warning": typer.colors.YELLOW}
    mark = typer.style(f"{finding.severity.value:>7}", fg=colors.get(finding.severity.value, typer.colors.RED))
    typer.echo(f"{mark}  {finding.name}: {finding.sentence}")
    if finding.advice:
        typer.echo(f"         → {finding.advice}")
