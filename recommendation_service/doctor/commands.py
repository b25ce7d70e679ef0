"""`recs doctor`: what stands between the service and its figures."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from recommendation_service.core.config import load_settings
from recommendation_service.doctor.findings import Severity

if TYPE_CHECKING:
    from recommendation_service.doctor.examination import Examination

_COLORS = {
    Severity.OK: typer.colors.GREEN,
    Severity.INFO: typer.colors.CYAN,
    Severity.WARNING: typer.colors.YELLOW,
    Severity.ERROR: typer.colors.RED,
}


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False) -> None:
    """Examine the operator's server and this machine, and say what to do.

    Reads the server of the settings (MYSQL_*, or DATABASE_URL) and changes nothing.
    Runs every source query up to five times: without phase 1's indices that takes a while. With MAPPING_FILE it runs
    the mapping's queries, once each, with their plans.
    Exit status: 0 all is fine, 1 there are warnings, 2 there are errors.

    \b
    $ recs doctor
    $ MYSQL_HOST=db.internal MYSQL_USER=recs MYSQL_PASSWORD=… recs doctor
    $ recs doctor --json | jq -r '.missing_indices[]'
    $ recs doctor --json | jq '.findings[] | select(.severity == "error")'
    """
    from sqlalchemy.exc import SQLAlchemyError

    from recommendation_service.core.database import make_engine
    from recommendation_service.core.errors import ConfigurationError
    from recommendation_service.doctor.examination import examine, examine_mapping
    from recommendation_service.mappings.opening import open_source
    from recommendation_service.sources.mapping.source import MappedSource

    settings = load_settings()
    try:
        engine = make_engine(settings)
    except (SQLAlchemyError, ImportError) as failure:
        raise ConfigurationError([f"DATABASE_URL names a driver that is not there: {failure}"]) from None
    try:
        with Console(stderr=True, quiet=as_json).status("Connecting") as status:
            source = open_source(settings, engine)
            if isinstance(source, MappedSource):
                examination = examine_mapping(settings, engine, source, status.update)
            else:
                examination = examine(settings, engine, source, status.update)
    finally:
        engine.dispose()
    if as_json:
        typer.echo(json.dumps(examination.as_dict(), ensure_ascii=False))
    else:
        _print(examination)
    raise typer.Exit(examination.status)


def _print(examination: "Examination") -> None:
    """Plain lines, never wrapped: statements are there to be pasted."""
    typer.echo(f"{examination.database}\n")
    for finding in examination.findings:
        mark = typer.style(f"{finding.severity.value:>7}", fg=_COLORS[finding.severity])
        typer.echo(f"{mark}  {finding.name}: {finding.sentence}")
        for line in finding.advice.splitlines():
            typer.echo(f"         → {line}" if not line.endswith(";") else f"         {line}")
    counts = {severity: sum(f.severity is severity for f in examination.findings) for severity in Severity}
    typer.echo(
        f"\n{counts[Severity.ERROR]} errors, {counts[Severity.WARNING]} warnings, "
        f"{counts[Severity.INFO]} remarks, {counts[Severity.OK]} fine."
    )
