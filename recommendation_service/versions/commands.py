"""What `recs catalog verify` and `recs policy verify` say."""

import json
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    # What only prints its help loads no arrays.
    from recommendation_service.versions.store import VersionStore


def tell_what_is_wrong(store: "VersionStore", version: str, *, as_json: bool) -> None:
    """With a version's files. Raises Exit with status 1 where something is."""
    problems = store.verify(version)
    if as_json:
        typer.echo(json.dumps({"version": version, "problems": problems}, ensure_ascii=False))
    elif problems:
        for problem in problems:
            typer.echo(f"{version}: {problem}", err=True)
    else:
        typer.echo(f"{version}: every file is whole")
    if problems:
        raise typer.Exit(1)
