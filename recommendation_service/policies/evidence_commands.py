"""`recs policy evidence`: what was found of a version at each look."""

import json
from typing import TYPE_CHECKING

import typer

from recommendation_service.core.config import load_settings
from recommendation_service.core.errors import PolicyError
from recommendation_service.core.output import print_rows
from recommendation_service.policies.changing import AsJson, OneVersion

if TYPE_CHECKING:
    from recommendation_service.policies.evidence import Look


def evidence(version: OneVersion, as_json: AsJson = False) -> None:
    """What was found of a version each time it was weighed beside what served, also of one that is gone from the disk.

    \b
    $ recs policy evidence 20261129T101500.000000Z-5d41402abc4b2a76
    $ recs policy evidence 20261129T101500.000000Z-5d41402abc4b2a76 --json | jq '.looks[-1].verdict'
    """
    from recommendation_service.policies.evidence import EvidenceFiles
    from recommendation_service.policies.store import PolicyStore

    settings = load_settings()
    store = PolicyStore(settings.policy_dir, settings.policy_keep)
    looks, is_here = EvidenceFiles(store.folder).of(version), version in store.versions()
    if not looks and not is_here:
        raise PolicyError(
            f"There is no version {version}, and no evidence of one: `recs policy list` shows those here."
        )
    if as_json:
        found = {"version": version, "on_disk": is_here, "looks": [vars(look) for look in looks]}
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    if not is_here:
        typer.echo(f"{version} is not on disk any more; this is what was found of it.")
    if not looks:
        why = "it was never weighed" if settings.learn_promotion != "off" else "LEARN_PROMOTION is off"
        typer.echo(f"Nothing is known of {version}: {why}.")
    print_looks(looks)


def print_looks(looks: "list[Look]") -> None:
    if looks:
        rows = [
            (look.when, look.who, look.against, f"{look.feeds:,}", f"{look.users:,}", look.verdict, look.words)
            for look in looks
        ]
        names = ("when", "who", "beside", "feeds", "people", "verdict", "why")
        print_rows(names, rows, title="Evidence", right={3, 4}, whole={0, 5})
