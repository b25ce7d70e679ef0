"""`recs experiment …`: policy versions compared on people, and what came of it."""

import json
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recommendation_service.core.config import load_settings
from recommendation_service.core.errors import PolicyError
from recommendation_service.core.output import print_rows
from recommendation_service.policies.changing import AsJson, By, Expect, Here, Why, changing, deed_of, warn_of_file

if TYPE_CHECKING:
    # What only prints its help loads no arrays.
    from recommendation_service.experiments.evidence import ArmEvidence
    from recommendation_service.policies.experiment import Arm, Ended, Experiment
    from recommendation_service.policies.store import PolicyStore

app = typer.Typer(no_args_is_help=True, help="Experiments: policy versions compared on people.")

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Default: the one that runs, else the last.")]

_ARM = re.compile(r"(?P<name>[^=]+)=(?P<version>[^:]+):(?P<share>[0-9.]+)(?P<percent>%?)")


@app.command()
def start(
    name: Annotated[str, typer.Argument(metavar="NAME", help="It is counted under this name, which none had before.")],
    arms: Annotated[
        list[str],
        typer.Option("--arm", metavar="NAME=VERSION:SHARE", help="2 to 8 of them; `current` is a version, too."),
    ],
    why: Why,
    salt: Annotated[str | None, typer.Option(help="People are drawn into arms by it. Default: the name.")] = None,
    by: By = None,
    expect: Expect = None,
    here: Here = False,
    as_json: AsJson = False,
) -> None:
    """Have each person's feeds made by one of several policy versions, from now on.

    Running workers do so within a second. A user is in the same arm for as long as the experiment runs, an anonymous
    person for a session. Arms and shares are not changed half way: that is another experiment.

    \b
    $ recs experiment start bolder --arm control=current:0.5 --arm bold=20261129T101500.000000Z-5d41402abc4b2a76:0.5 \\
        --why "are bolder feeds better?"
    """
    from recommendation_service.policies.choice import begun_with
    from recommendation_service.policies.experiments import start_experiment

    wanted = _arms(arms)
    with changing(here) as (settings, store):
        until_now = begun_with(settings)
        begun = start_experiment(store, name, wanted, deed_of(why, by), salt=salt, expect=expect, until_now=until_now)
    if as_json:
        typer.echo(json.dumps(begun.content(), ensure_ascii=False))
    else:
        typer.echo(f"Experiment {begun.name} runs: {in_words(begun)}")
    warn_of_file(settings)


def _arms(given: list[str]) -> "list[Arm]":
    from recommendation_service.policies.experiment import Arm

    arms, wrong = [], []
    for text in given:
        found = _ARM.fullmatch(text)
        try:
            if found is None:
                raise ValueError
            share = float(found["share"]) / (100 if found["percent"] else 1)
        except ValueError:
            wrong.append(repr(text))
            continue
        arms.append(Arm(found["name"], found["version"], share))
    if wrong:
        told = "is no NAME=VERSION:SHARE, as control=current:0.5" if len(wrong) == 1 else "are no NAME=VERSION:SHARE"
        raise typer.BadParameter(f"{', '.join(wrong)} {told}", param_hint="--arm")
    return arms


def in_words(experiment: "Experiment") -> str:
    return ", ".join(f"{arm.name} ({arm.version}) {100 * arm.share:g} %" for arm in experiment.arms)


@app.command()
def stop(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="That it has; else nothing is changed.")] = None,
    why: Why = "",
    by: By = None,
    here: Here = False,
    as_json: AsJson = False,
) -> None:
    """End the experiment that runs: the current version makes everybody's feeds again.

    Promoting one of its arms ends it, too. What was counted stays.

    \b
    $ recs experiment stop bolder --why "no difference in two weeks"
    """
    from recommendation_service.policies.experiments import stop_experiment

    with changing(here) as (settings, store):
        over = stop_experiment(store, name, deed_of(why, by))
        current = store.current()
    if as_json:
        typer.echo(json.dumps({"name": over.name, "current": current}))
    else:
        typer.echo(f"Experiment {over.name} is over. Current is {current}")
    warn_of_file(settings)


@app.command("list")
def list_experiments(as_json: AsJson = False) -> None:
    """The experiment that runs, and those that are over; the latest first.

    \b
    $ recs experiment list
    """
    store = _store()
    (runs, problem), over = store.named_experiment(), store.ended_experiments()
    if problem is not None:
        typer.echo(problem, err=True)
    if as_json:
        found = [*([{**runs.content(), "ended": None}] if runs is not None else []), *map(_ended, reversed(over))]
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    rows = [(runs.name, "runs", runs.started, runs.who, runs.why, in_words(runs))] if runs is not None else []
    for one in reversed(over):
        what, ended = one.experiment, f"ended {one.when} by {one.who}"
        rows.append((what.name, f"{ended}: {one.why}" if one.why else ended, *_begun(what), in_words(what)))
    if rows:
        print_rows(("name", "", "started", "who", "why", "arms"), rows)
    else:
        typer.echo("There was no experiment yet: `recs experiment start` begins one.")


def _begun(experiment: "Experiment") -> tuple[str, str, str]:
    return experiment.started, experiment.who, experiment.why


def _ended(one: "Ended") -> dict[str, Any]:
    return {**one.experiment.content(), "ended": {"when": one.when, "who": one.who, "why": one.why}}


@app.command()
def show(name: Name = None, as_json: AsJson = False) -> None:
    """What an experiment compares, and what came of it on this machine: people, feeds, what a feed brought, and how
    much more than in the first arm.

    The interval holds however often one looks, and so does the test that people come into the arms as the shares say.

    \b
    $ recs experiment show
    $ recs experiment show bolder --json | jq .evidence
    """
    from recommendation_service.experiments.evidence import evidence, verdicts

    settings = load_settings()
    experiment, over = found(_store(), name)
    weighed = evidence(experiment, settings.learning_dir)
    if as_json:
        content = _ended(over) if over else {**experiment.content(), "ended": None}
        typer.echo(json.dumps({**content, "evidence": weighed.content() if weighed else None}, ensure_ascii=False))
        return
    typer.echo(f"Experiment {experiment.name}, started {experiment.started} by {experiment.who}: {experiment.why}")
    typer.echo(f"It ended {over.when} by {over.who}: {over.why}" if over else "It runs.")
    counted = weighed.arms if weighed else [None for _ in experiment.arms]
    lines = [
        (arm.name, arm.version, f"{100 * arm.share:g} %", *_figures(of))
        for arm, of in zip(experiment.arms, counted, strict=True)
    ]
    headings = ("arm", "version", "share", "people", "feeds", "reward a feed", "more than the first", "95 % interval")
    print_rows(headings, lines, right=set(range(2, 8)))
    if weighed is not None:
        for sentence in verdicts(weighed):
            typer.echo(sentence)
        explained = max((arm.beside.explained for arm in weighed.arms if arm.beside), default=0.0)
        if explained > 0:
            typer.echo(f"What people did before explains {100 * explained:.0f} % of the variance, and is taken out.")
    elif settings.learner == "off":
        typer.echo("Nothing is counted: LEARNER is off.")
    else:
        typer.echo("Nothing was counted yet.")


def _figures(arm: "ArmEvidence | None") -> tuple[str, ...]:
    if arm is None:
        return ("", "", "", "", "")
    counted = f"{arm.people:,}", f"{arm.feeds:,}", f"{arm.reward:.4f}" if arm.reward is not None else ""
    beside = arm.beside
    if beside is None:
        return (*counted, "", "")
    return (*counted, f"{beside.value:+.4f}", f"{beside.lower:+.4f} to {beside.upper:+.4f}")


def found(store: "PolicyStore", name: str | None) -> "tuple[Experiment, Ended | None]":
    """The experiment, and how it ended; None: it runs. Raises PolicyError."""
    runs, over = store.experiment(), store.ended_experiments()
    if runs is not None and name in (None, runs.name):
        return runs, None
    for one in reversed(over):
        if name in (None, one.experiment.name):
            return one.experiment, one
    there = "There was no experiment yet" if name is None else f"There is no experiment {name}"
    raise PolicyError(f"{there}: `recs experiment list` shows them, and `recs experiment start` begins one.")


def _store() -> "PolicyStore":
    from recommendation_service.policies.store import PolicyStore

    settings = load_settings()
    return PolicyStore(settings.policy_dir, settings.policy_keep)
