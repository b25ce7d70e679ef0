"""Experiments begin and end: changes of what is served, under the store's lock and with the fleet's agreement."""

from collections.abc import Sequence

from recommendation_service.core.errors import PolicyError
from recommendation_service.policies.experiment import (
    CURRENT_VERSION,
    START,
    Arm,
    Experiment,
    about,
    experiment_problems,
)
from recommendation_service.policies.journal import Deed, entry_of
from recommendation_service.policies.policy import Policy, parse_policy
from recommendation_service.policies.store import PolicyStore


def start_experiment(
    store: PolicyStore,
    name: str,
    arms: Sequence[Arm],
    deed: Deed,
    *,
    salt: str | None,
    expect: str | None,
    until_now: bytes,
) -> Experiment:
    """From now on people's feeds are made by these arms. ``salt``: default the name. ``until_now``: as ``publish``
    has it, for an arm that is to be what is served."""
    if problems := experiment_problems(name, arms):
        raise PolicyError(f"There cannot be such an experiment: {'; '.join(problems)}.")
    with store.changing(expect) as before:
        store.must_not_be_pinned()
        store.must_not_be_compared()
        if any(over.experiment.name == name for over in store.ended_experiments()):
            raise PolicyError(
                f"There was an experiment {name}, and what is counted goes by the name: take another. "
                f"--salt {name} has people in the same order as it had."
            )
        _must_be_comparable(store, [arm for arm in arms if arm.version != CURRENT_VERSION], before, until_now)
        served, entries, new, current = store.served(), [], [], before
        if current is None and any(arm.version == CURRENT_VERSION for arm in arms):
            current, entry = store.add_first(until_now, deed)
            served, entries, new = served._replace(current=current), [entry], [current]
        named = [arm._replace(version=current or "") if arm.version == CURRENT_VERSION else arm for arm in arms]
        started = deed.moment.isoformat(timespec="milliseconds")
        experiment = Experiment(name, salt or name, tuple(named), started, deed.who, deed.why)
        entries.append(entry_of(about(experiment, deed), START, " ".join(experiment.versions), current))
        store.change(entries, served._replace(experiment=experiment), new)
    return experiment


def stop_experiment(store: PolicyStore, name: str | None, deed: Deed) -> Experiment:
    """People's feeds are made by the current version again. ``name``: that it is expected to have."""
    with store.changing(None) as before:
        experiment, problem = store.named_experiment()
        if experiment is None or name not in (None, experiment.name):
            runs = (
                (problem or "no experiment runs").removesuffix(".")
                if experiment is None
                else f"the one that runs is {experiment.name}"
            )
            raise PolicyError(f"Nothing was changed: {runs}.")
        store.change(store.end_of_experiment(deed, before), store.served()._replace(experiment=None))
    return experiment


def _must_be_comparable(store: PolicyStore, arms: Sequence[Arm], before: str | None, until_now: bytes) -> None:
    """A catalog is built with one policy: an arm that needs another would be ranked by sums that are not its own."""
    served = store.open(before) if before is not None else Policy(parse_policy(until_now, "policy file"))
    problems = []
    for arm in arms:
        try:
            policy = store.open(arm.version)
        except PolicyError as error:
            problems.append(f"{arm.name}: {error}")
            continue
        if policy.catalog_digest != served.catalog_digest:
            problems.append(
                f"{arm.name}: version {arm.version} needs another catalog than {served.version}, which is served: "
                "its weights of what does not depend on the user, its kinds, windows, cuts or features differ"
            )
    if problems:
        raise PolicyError(f"There cannot be such an experiment: {'; '.join(problems)}.")
