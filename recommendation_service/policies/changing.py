"""What commands that change which policies are served have in common: their options, who acts, and the fleet."""

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.errors import PolicyError

if TYPE_CHECKING:
    # What only prints its help loads no arrays.
    from recommendation_service.policies.journal import Deed
    from recommendation_service.policies.store import PolicyStore

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
OneVersion = Annotated[str, typer.Argument(metavar="VERSION", help="One of those that `recs policy list` shows.")]
Expect = Annotated[
    str | None,
    typer.Option(metavar="VERSION", help="Change nothing unless this is the current version; none: there is none."),
]
Why = Annotated[str, typer.Option(help="The reason, for the journal.")]
By = Annotated[str | None, typer.Option(help="Who, for the journal. Default: USER@HOST.")]

Here = Annotated[
    bool, typer.Option("--here", help="Where Redis does not answer: on this machine alone, until it does again.")
]


@contextmanager
def changing(here: bool) -> "Iterator[tuple[Settings, PolicyStore]]":
    """For a change, with the fleet's agreement where there is one."""
    from recommendation_service.core.blocking_redis import open_blocking_redis
    from recommendation_service.policies.fleet import FleetPolicies, FleetUnreachable
    from recommendation_service.policies.store import PolicyStore

    settings = load_settings()
    redis = open_blocking_redis(settings)
    fleet = FleetPolicies(redis, may_go_alone=here) if redis is not None else None
    try:
        yield settings, PolicyStore(settings.policy_dir, settings.policy_keep, fleet)
    except FleetUnreachable as error:
        told = "--here changes it on this machine alone, until Redis answers again."
        raise PolicyError(f"Nothing was changed. {error} {told}") from error
    finally:
        if redis is not None:
            redis.close()
    if fleet is not None and fleet.is_alone:
        warning = "Redis does not answer: this holds on this machine alone, until it does and the fleet's holds again."
        typer.secho(f"Warning: {warning}", fg=typer.colors.YELLOW, err=True)


def deed_of(why: str, by: str | None) -> "Deed":
    from recommendation_service.policies.journal import Deed

    return Deed(datetime.now(UTC), by or f"{_user()}@{socket.gethostname()}", why)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as containers have
        return str(os.getuid())


def warn_of_file(settings: Settings) -> None:
    if settings.policy_file is not None:
        warning = f"POLICY_FILE is set: {settings.policy_file} is served, and no version, until a start without it."
        typer.secho(f"Warning: {warning}", fg=typer.colors.YELLOW, err=True)
