"""All figures of one method under one protocol, as the table, the chart and `--json` have them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from recommendation_service.evaluation.interaction_log import InteractionLog
from recommendation_service.evaluation.intervals import Bootstrap, Estimate, percentiles, spread
from recommendation_service.evaluation.measures import (
    MEASURES,
    OF_CONSUMPTIONS,
    OF_LISTS,
    Asked,
    Measured,
    asked_of,
    coverage,
    gini,
    measure,
)
from recommendation_service.evaluation.protocol import Plan
from recommendation_service.evaluation.replay import Answers

SERVICE, FULL_PATTERN = "service", "service_full"
# Items that the user had had, from and up to; "under_5" holds "0" as well.
HISTORIES = {"0": (0, 0), "under_5": (0, 4), "5_to_19": (5, 19), "20_and_more": (20, np.inf)}
AGES_DAYS = {"under_7_days": (0, 7), "7_to_30_days": (7, 30), "30_to_90_days": (30, 90), "over_90_days": (90, np.inf)}
OF_GROUPS = ("ndcg_10", "recall_10")


@dataclass(frozen=True)
class Summary:
    """Of one method. Estimates are by measure; those of groups by group and measure."""

    name: str
    protocol: str
    estimates: dict[str, Estimate]
    by_history: dict[str, dict[str, Estimate]]
    by_item_age: dict[str, dict[str, Estimate]]
    differences: dict[str, Estimate]  # to the service; empty for itself, and where it was left out
    sizes: dict[str, int]  # of the groups, in consumptions
    hyperparameters: dict[str, Any]
    seconds: float
    baskets: int  # questions; all events of a user in one second are one basket
    consumptions: int  # that were asked for
    unknown_items: int  # consumptions that were not, of items that were not there at the refit
    seed: int  # of the order within a second, and of all draws

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "protocol": self.protocol,
            "baskets": self.baskets,
            "consumptions": self.consumptions,
            "unknown_items": self.unknown_items,
            "seed": self.seed,
            **{measure: _number(estimate.value) for measure, estimate in self.estimates.items()},
            "intervals": {measure: _interval(estimate) for measure, estimate in self.estimates.items()},
            "difference_to_service": {measure: _whole(estimate) for measure, estimate in self.differences.items()},
            "by_history": self._groups(self.by_history),
            "by_item_age": self._groups(self.by_item_age),
            "hyperparameters": self.hyperparameters,
            "seconds": round(self.seconds, 1),
        }

    def _groups(self, groups: dict[str, dict[str, Estimate]]) -> dict[str, Any]:
        return {
            group: {"consumptions": self.sizes[group]} | {name: _whole(each) for name, each in estimates.items()}
            for group, estimates in groups.items()
        }


class Summaries:
    """Of all methods of one plan. The service first: the others are compared with it."""

    def __init__(self, plan: Plan, log: InteractionLog, seed: int) -> None:
        self._plan, self._log, self._seed = plan, log, seed
        self._asked: Asked = asked_of(plan, log)
        self._bootstrap = Bootstrap(self._asked.basket_user, seed)
        self._service: dict[str, Any] | None = None

    def of(self, answers: Answers, hyperparameters: dict[str, Any]) -> Summary:
        asked, measured = self._asked, measure(self._plan, self._log, answers)
        replicates = self._replicates(measured)
        if answers.name == SERVICE:
            self._service = replicates
        differences = {}
        if self._service is not None and answers.name != SERVICE:
            for name in MEASURES:
                differences[name] = percentiles(replicates[name] - self._service[name])
        sizes: dict[str, int] = {}
        by_history, by_item_age = {}, {}
        for group, (low, high) in HISTORIES.items():
            baskets = (asked.basket_history >= low) & (asked.basket_history <= high)
            chosen = (asked.history >= low) & (asked.history <= high)
            sizes[group] = int(chosen.sum())
            by_history[group] = self._of_group(measured, chosen) | {
                "hit_10": percentiles(
                    self._bootstrap.means(asked.basket_user[baskets], measured.values["hit_10"][baskets])
                )
            }
        for group, (low, high) in AGES_DAYS.items():
            chosen = (asked.age_days >= low) & (asked.age_days < high)
            sizes[group] = int(chosen.sum())
            by_item_age[group] = self._of_group(measured, chosen)
        return Summary(
            name=answers.name,
            protocol=self._plan.protocol,
            estimates={name: (spread if name in OF_LISTS else percentiles)(replicates[name]) for name in MEASURES},
            by_history=by_history,
            by_item_age=by_item_age,
            differences=differences,
            sizes=sizes,
            hyperparameters=hyperparameters,
            seconds=answers.fit_seconds + answers.rank_seconds,
            baskets=self._plan.baskets,
            consumptions=self._plan.taken,
            unknown_items=self._plan.unknown_items,
            seed=self._seed,
        )

    def _of_group(self, measured: Measured, chosen: Any) -> dict[str, Estimate]:
        user = self._asked.user[chosen]
        return {name: percentiles(self._bootstrap.means(user, measured.values[name][chosen])) for name in OF_GROUPS}

    def _replicates(self, measured: Measured) -> dict[str, Any]:
        asked = self._asked
        found = {
            name: self._bootstrap.means(asked.user if name in OF_CONSUMPTIONS else asked.basket_user, values)
            for name, values in measured.values.items()
        }
        return found | self._bootstrap.of_lists(
            asked.basket_user,
            measured.shown,
            self._log.items,
            {
                "coverage": lambda times_shown: coverage(times_shown[:, asked.candidates]),
                "gini": lambda times_shown: gini(times_shown[:, asked.candidates]),
            },
        )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)


def _interval(estimate: Estimate) -> list[float | None]:
    return [_number(estimate.low), _number(estimate.high)]


def _whole(estimate: Estimate) -> dict[str, Any]:
    return {"value": _number(estimate.value), "interval": _interval(estimate)}
