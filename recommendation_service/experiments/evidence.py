"""What came of an experiment, as the learner counted it: by arm, beside the first, and whether it may be believed."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from recommendation_service.experiments.difference import FEWEST_PEOPLE, Difference, People, difference
from recommendation_service.experiments.ratio import ALARM, p_value
from recommendation_service.learning.arms import ArmTotals, rows_in, totals_in
from recommendation_service.learning.ledger import FILE
from recommendation_service.policies.experiment import Experiment

ERROR = 0.05  # of all comparisons of an experiment together
_NOTHING = ArmTotals(0, 0, 0.0, 0)


class ArmEvidence(NamedTuple):
    name: str
    people: int
    feeds: int
    reward: float | None  # of a feed; None: there was none
    beside: Difference | None  # beside the first arm; None: it is that, or too few came


class Evidence(NamedTuple):
    arms: list[ArmEvidence]
    ratio: float  # p-value, at any time, of the test that people came as the shares say

    @property
    def is_askew(self) -> bool:
        return self.ratio < ALARM

    def content(self) -> dict[str, Any]:
        """For JSON."""
        arms = [{**arm._asdict(), "beside": arm.beside._asdict() if arm.beside else None} for arm in self.arms]
        return {"arms": arms, "ratio_p_value": self.ratio, "ratio_is_off": self.is_askew}


def evidence(experiment: Experiment, folder: Path) -> Evidence | None:
    """``folder``: of the learner. None: nothing was counted yet. Raises OSError where its file cannot be read."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5)) as database:
            database.execute("BEGIN")  # all of it of one moment
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'arm_people'").fetchone():
                return None
            totals = totals_in(database)
            if not any(label in totals for label in experiment.labels):
                return None
            people = [People(*rows_in(database, label)) for label in experiment.labels]
    except sqlite3.Error as error:
        raise OSError(5, str(error), str(path)) from error
    return weighed(experiment, [totals.get(label, _NOTHING) for label in experiment.labels], people)


def weighed(experiment: Experiment, totals: list[ArmTotals], people: list[People]) -> Evidence:
    """``totals`` and ``people``: of each arm."""
    error = ERROR / (len(people) - 1)
    arms = [
        ArmEvidence(
            arm.name,
            total.people,
            total.feeds,
            total.reward / total.feeds if total.feeds else None,
            difference(people[0], found, error) if place else None,
        )
        for place, (arm, total, found) in enumerate(zip(experiment.arms, totals, people, strict=True))
    ]
    return Evidence(arms, p_value([total.people for total in totals], experiment.shares))


def verdicts(found: Evidence) -> list[str]:
    """What a person should make of it, in sentences."""
    said = []
    if found.is_askew:
        counts = ", ".join(f"{arm.name} {arm.people:,}" for arm in found.arms)
        said.append(
            f"People did not come into the arms as the shares say ({counts}; p = {found.ratio:.1g}): something loses "
            "feeds of one of them, and nothing below can be believed. docs/runbooks.md says under "
            "RecommendationExperimentRatioOff what to do."
        )
    first = found.arms[0]
    for arm in found.arms[1:]:
        beside = arm.beside
        if beside is None:
            short = [one.name for one in (first, arm) if one.people < FEWEST_PEOPLE]
            why = f"fewer than {FEWEST_PEOPLE} people in {' and '.join(short)}" if short else "no rewards that differ"
            said.append(f"{arm.name}: nothing can be said yet, with {why}.")
        elif beside.lower > 0:
            said.append(f"{arm.name} is better than {first.name}.")
        elif beside.upper < 0:
            said.append(f"{arm.name} is worse than {first.name}.")
        else:
            times = ((beside.upper - beside.lower) / 2 / abs(beside.value)) ** 2 if beside.value else float("inf")
            more = f": a difference as now would need about {times:.0f} times the people" if 1.5 <= times < 100 else ""
            said.append(f"{arm.name}: no difference to {first.name} can be told{more}.")
    return said
