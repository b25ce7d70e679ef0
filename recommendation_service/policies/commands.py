"""`recs policy …`: policy versions, which one is served, and who decided that."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.errors import ConfigurationError, PolicyError
from recommendation_service.core.output import print_rows
from recommendation_service.policies import evidence_commands
from recommendation_service.policies.changing import (
    AsJson,
    By,
    Expect,
    Here,
    OneVersion,
    Why,
    changing,
    deed_of,
    warn_of_file,
)
from recommendation_service.versions.commands import tell_what_is_wrong

if TYPE_CHECKING:
    # What only prints its help loads no arrays.
    from recommendation_service.policies.journal import Entry
    from recommendation_service.policies.policy import Learned, Policy
    from recommendation_service.policies.store import PolicyStore

app = typer.Typer(no_args_is_help=True, help="Policy versions: what feeds are ranked by.")
app.command()(evidence_commands.evidence)

Version = Annotated[str | None, typer.Argument(metavar="[VERSION]", help="Default: the current one.")]

LATEST_CHANGES = 10


@app.command("list")
def list_versions(as_json: AsJson = False) -> None:
    """The versions on disk, newest first, and the latest changes of what is served.

    \b
    $ recs policy list
    $ recs policy list --json | jq -r .current
    """
    from recommendation_service.policies.evidence import EvidenceFiles
    from recommendation_service.policies.store import BY_LEARNER

    settings, store = _store()
    files = EvidenceFiles(store.folder)
    current, pinned, shadows, experiment = store.current(), store.pinned(), store.shadows(), store.experiment()
    rows: list[dict[str, Any]] = []
    for version in reversed(store.versions()):
        row: dict[str, Any] = {"version": version, "current": version == current, "shadow": version in shadows}
        row["arms"] = [arm.name for arm in experiment.arms if arm.version == version] if experiment is not None else []
        try:
            manifest = store.manifest(version)
        except PolicyError as error:
            rows.append({**row, "problem": str(error)})
            continue
        described = {name: manifest.get(name) for name in ("name", "published_at", "by", "why")}
        looks = files.of(version)
        described["verdict"] = looks[-1].verdict if looks else None
        rows.append({**row, **described, "learned": "theta.npy" in manifest["files"]})
    journal, cut_off = store.journal.entries(), _cut_off(settings)
    if as_json:
        found: dict[str, Any] = {
            "current": current,
            "pinned": pinned,
            "shadows": shadows,
            "cut_off": cut_off,
            "versions": rows,
        }
        found["experiment"] = experiment.content() if experiment is not None else None
        typer.echo(json.dumps({**found, "journal": [vars(entry) for entry in journal]}, ensure_ascii=False))
        return
    if not rows:
        typer.echo(f"No policy version in {store.folder}: `recs policy publish` makes one.")
    else:
        print_rows(("version", "", "name", "learned", "by", "why"), [_listed(row, pinned) for row in rows])
    for row in rows:
        if "problem" in row:
            typer.echo(f"{row['version']}: {row['problem']}")
    # The learner's own, of what is loaded beside, come several times an hour; JSON has them.
    _print_changes([entry for entry in journal if entry.who != BY_LEARNER][: -LATEST_CHANGES - 1 : -1])
    if cut_off is not None:
        warning = f"This machine does not follow the policy that the fleet serves: {cut_off}"
        typer.secho(f"Warning: {warning}", fg=typer.colors.YELLOW, err=True)
    warn_of_file(settings)


def _listed(row: dict[str, Any], pinned: str | None) -> tuple[str, ...]:
    marks = ["pinned" if row["version"] == pinned else "current"] if row["current"] else []
    marks += ["shadow"] if row["shadow"] else []
    marks += [f"arm {name}" for name in row["arms"]]
    marks += [row["verdict"]] if row.get("verdict") else []
    if "problem" in row:
        return (row["version"], ", ".join([*marks, "damaged"]), "", "", "", "")
    learned = "yes" if row["learned"] else "no"
    return (row["version"], ", ".join(marks), row["name"], learned, row["by"], row["why"] or "")


def _print_changes(entries: "list[Entry]") -> None:
    changes = [(each.when, each.did, each.version or "none", each.who, each.why) for each in entries]
    if changes:
        print_rows(("when", "did", "version", "who", "why"), changes, title="Changes", whole={0, 1, 2})


@app.command()
def show(version: Version = None, as_json: AsJson = False) -> None:
    """What is in a version, when it was served and why, and what was found when it was weighed.

    \b
    $ recs policy show
    $ recs policy show 20261129T101500.000000Z-5d41402abc4b2a76 --json
    """
    from recommendation_service.policies.evidence import EvidenceFiles

    settings, store = _store()
    version = store.named(version)
    policy, manifest = store.open(version), store.manifest(version)
    changes = [entry for entry in store.journal.entries() if version in (entry.version or "").split()]
    looks = EvidenceFiles(store.folder).of(version)
    if as_json:
        found = {"version": version, **manifest, "file": policy.file.model_dump(mode="json")}
        found["evidence"] = [vars(look) for look in looks]
        if "theta.npy" in manifest["files"]:
            found["theta"] = policy.arrays.theta.tolist()
        typer.echo(json.dumps({**found, "journal": [vars(entry) for entry in changes]}, ensure_ascii=False))
        return
    temperature = dict(zip(policy.file.kind_names, policy.arrays.temperature.tolist(), strict=True))
    learned = ", with what was learned" if "theta.npy" in manifest["files"] else ""
    typer.echo(
        f"{version}, {manifest['name']}{learned}, published {manifest['published_at']} by {manifest['by']}"
        + (", current" if version == store.current() else "")
    )
    print_rows(
        ("kind", "label", "item", "pool", "alpha", "temperature", "weights"),
        [
            (
                *(name, kind.label, kind.item or "all", f"{kind.pool}", f"{kind.alpha:g}", f"{temperature[name]:.3g}"),
                ", ".join(f"{term} {weight:g}" for term, weight in kind.weights.items()),
            )
            for name, kind in policy.file.kinds_in_use.items()
        ],
        right={3, 4, 5},
    )
    typer.echo(f"floor of the draws: {policy.arrays.floor:g}")
    evidence_commands.print_looks(looks)
    _print_changes(changes[::-1])
    warn_of_file(settings)


@app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="A version, or `ships`: the policy that ships.")],
    after: Annotated[str | None, typer.Argument(metavar="[B]", help="Default: the current one.")] = None,
    most: Annotated[int, typer.Option(min=1, help="So many weights, the most moved first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """What B has otherwise than A: the weights that were learned, by how much they moved, and the policy file's values.

    \b
    $ recs policy diff ships 20261129T101500.000000Z-5d41402abc4b2a76
    $ recs policy diff 20261129T101500.000000Z-5d41402abc4b2a76 --json
    """
    from recommendation_service.policies.differences import changed_values, moves

    _, store = _store()
    one, other = _opened(store, before), _opened(store, after)
    moved, values = moves(one, other), changed_values(one, other)
    if as_json:
        found = {"before": one.version, "after": other.version}
        weights = [{**move._asdict(), "by": move.by} for move in moved]
        typer.echo(json.dumps({**found, "weights": weights, "file": [value._asdict() for value in values]}))
        return
    typer.echo(f"From {one.version} to {other.version}:")
    if not moved and not values:
        typer.echo("nothing differs.")
    for move in moved[:most]:
        typer.echo(
            f"{move.kind}: {move.feature} counts {abs(move.by):.2f} {'more' if move.by > 0 else 'less'}, "
            f"{move.after:.2f} instead of {move.before:.2f}"
        )
    if len(moved) > most:
        typer.echo(f"and {len(moved) - most} weights that moved less (--most)")
    for value in values:
        typer.echo(f"{value.name}: {value.after} instead of {value.before}")


def _opened(store: "PolicyStore", version: str | None) -> "Policy":
    from recommendation_service.policies.choice import shipped
    from recommendation_service.policies.policy import Policy, parse_policy

    if version == "ships":
        return Policy(parse_policy(shipped(load_settings()), "the policy that ships"))
    return store.open(store.named(version))


@app.command()
def verify(version: Version = None, as_json: AsJson = False) -> None:
    """Check a version's files, its policy and its arrays; exit status 1 where something is wrong.

    \b
    $ recs policy verify
    """
    _, store = _store()
    tell_what_is_wrong(store, store.named(version), as_json=as_json)


@app.command()
def publish(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Default: the policy that ships.")] = None,
    theta: Annotated[Path | None, typer.Option(help="What was learned, kinds × features, as .npy.")] = None,
    precision: Annotated[Path | None, typer.Option("--A", help="And its precision, kinds × d × d, as .npy.")] = None,
    aside: Annotated[bool, typer.Option("--aside", help="Keep it, and serve what is served.")] = False,
    why: Why = "",
    by: By = None,
    expect: Expect = None,
    here: Here = False,
    as_json: AsJson = False,
) -> None:
    """Check a policy file whole, keep it as a version, and serve it.

    Running workers take it up within a second. While another version is pinned, it is only kept.

    \b
    $ recs policy publish my-policy.toml --why "longer memory of skills"
    $ recs policy publish my-policy.toml --theta theta.npy --A A.npy --aside
    $ recs policy publish --why "back to the policy that ships"
    """
    from recommendation_service.policies.choice import begun_with, shipped
    from recommendation_service.policies.policy import read_policy_file

    try:
        with changing(here) as (settings, store):
            content = shipped(settings) if file is None else read_policy_file(file)
            until_now = begun_with(settings)
            learned = _learned(theta, precision)
            version = store.publish(content, learned, deed_of(why, by), expect, aside=aside, until_now=until_now)
    except ConfigurationError as error:
        raise PolicyError("The policy cannot be published: " + "; ".join(error.problems) + ".") from error
    is_current = store.current() == version
    if as_json:
        typer.echo(json.dumps({"version": version, "current": is_current}))
    else:
        typer.echo(f"Published {version}" + ("" if is_current else f"; {store.current() or 'none'} is current"))
    warn_of_file(settings)


def _learned(theta: Path | None, precision: Path | None) -> "Learned | None":
    import numpy as np

    from recommendation_service.policies.policy import Learned

    if theta is None and precision is None:
        return None
    if theta is None or precision is None:
        raise typer.BadParameter("go together: both, or neither", param_hint="--theta and --A")
    arrays = []
    for path in (theta, precision):
        try:
            arrays.append(np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            reason = getattr(error, "strerror", None) or error
            raise PolicyError(f"{path} cannot be read as an array: {reason}") from error
    return Learned(*arrays)


@app.command()
def promote(
    version: OneVersion, why: Why, by: By = None, expect: Expect = None, here: Here = False, as_json: AsJson = False
) -> None:
    """Serve a version that is kept. Refused while one is pinned. An arm of the experiment that runs ends it; while one
    runs any other is refused.

    \b
    $ recs policy promote 20261129T101500.000000Z-5d41402abc4b2a76 --why "won the experiment"
    """
    with changing(here) as (settings, store):
        store.promote(version, deed_of(why, by), expect)
        _tell(settings, store, as_json)


@app.command()
def canary(
    version: OneVersion,
    why: Why,
    share: Annotated[float, typer.Option(min=0.0001, max=0.5, help="Of people.")] = 0.05,
    name: Annotated[str | None, typer.Option(help="Of the experiment. Default: canary- and a time.")] = None,
    by: By = None,
    expect: Expect = None,
    here: Here = False,
    as_json: AsJson = False,
) -> None:
    """Have a version make the feeds of a small share of people, beside the current one.

    It is an experiment of two arms, control and candidate: `recs experiment show` says what comes of it. `recs policy
    promote VERSION` serves the version to all, `recs experiment stop` goes back to the current one.

    \b
    $ recs policy canary 20261129T101500.000000Z-5d41402abc4b2a76 --share 0.05 --why "better by the estimate"
    """
    from recommendation_service.policies.choice import begun_with
    from recommendation_service.policies.experiment import CURRENT_VERSION, Arm
    from recommendation_service.policies.experiments import start_experiment

    deed = deed_of(why, by)
    arms = [Arm("control", CURRENT_VERSION, 1 - share), Arm("candidate", version, share)]
    with changing(here) as (settings, store):
        begun = start_experiment(
            store,
            name or f"canary-{deed.moment:%Y%m%dT%H%M%S}",
            arms,
            deed,
            salt=None,
            expect=expect,
            until_now=begun_with(settings),
        )
    if as_json:
        typer.echo(json.dumps(begun.content(), ensure_ascii=False))
    else:
        typer.echo(f"Experiment {begun.name} runs: {version} makes the feeds of {100 * share:g} % of people")
    warn_of_file(settings)


@app.command()
def rollback(why: Why, by: By = None, expect: Expect = None, here: Here = False, as_json: AsJson = False) -> None:
    """Serve the version that was served before the current one. Refused while one is pinned.

    \b
    $ recs policy rollback --why "fewer items were opened"
    """
    with changing(here) as (settings, store):
        store.rollback(deed_of(why, by), expect)
        _tell(settings, store, as_json)


@app.command()
def pin(
    version: OneVersion, why: Why, by: By = None, expect: Expect = None, here: Here = False, as_json: AsJson = False
) -> None:
    """Serve a version, and no other until it is unpinned.

    \b
    $ recs policy pin 20261129T101500.000000Z-5d41402abc4b2a76 --why "nothing changes before the fair"
    """
    with changing(here) as (settings, store):
        store.pin(version, deed_of(why, by), expect)
        _tell(settings, store, as_json)


@app.command()
def unpin(why: Why, by: By = None, expect: Expect = None, here: Here = False, as_json: AsJson = False) -> None:
    """Let other versions be served again; until one is, the version that was pinned is.

    \b
    $ recs policy unpin --why "the fair is over"
    """
    with changing(here) as (settings, store):
        store.unpin(deed_of(why, by), expect)
        _tell(settings, store, as_json)


@app.command()
def shadow(
    versions: Annotated[list[str] | None, typer.Argument(metavar="[VERSION]…", help="At most 4.")] = None,
    why: Why = "",
    by: By = None,
    here: Here = False,
    as_json: AsJson = False,
) -> None:
    """Record with each feed how likely these versions were to make it; without a version, none are.

    \b
    $ recs policy shadow 20261129T101500.000000Z-5d41402abc4b2a76
    $ recs policy shadow
    """
    with changing(here) as (settings, store):
        store.shadow(versions or [], deed_of(why, by))
    if as_json:
        typer.echo(json.dumps({"shadows": store.shadows()}))
    else:
        typer.echo(f"Shadows: {', '.join(store.shadows()) or 'none'}")
    warn_of_file(settings)


def _store() -> "tuple[Settings, PolicyStore]":
    from recommendation_service.policies.store import PolicyStore

    settings = load_settings()
    return settings, PolicyStore(settings.policy_dir, settings.policy_keep)


def _cut_off(settings: Settings) -> str | None:
    """Why this machine does not follow the fleet, as the service last told; None: it does, or there is no fleet."""
    from recommendation_service.policies.fleet_status import read_fleet_status

    status = read_fleet_status(settings.policy_dir) if settings.has_redis else None
    return status.error if status is not None else None


def _tell(settings: Settings, store: "PolicyStore", as_json: bool) -> None:
    current, pinned = store.current(), store.pinned()
    if as_json:
        typer.echo(json.dumps({"current": current, "pinned": pinned}))
    else:
        typer.echo(f"Current is {current}" + (", pinned" if pinned else ""))
    warn_of_file(settings)
