"""The methods that can be asked, by name, and how their hyperparameters are chosen: on a part before the test."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from recommendation_service.evaluation import baselines
from recommendation_service.evaluation.interaction_log import InteractionLog
from recommendation_service.evaluation.protocol import PREQUENTIAL, Method, Plan, last_item, prequential
from recommendation_service.evaluation.replay import replay
from recommendation_service.evaluation.summary import FULL_PATTERN, SERVICE

# Validation parts by shares of the log, before the protocol's test part: prequential, but with a refit a week; and last
# items of three parts, since one has few questions.
VALIDATION, VALIDATION_REFIT_DAYS = (0.7, 0.8), 7
VALIDATION_SPLITS = (0.6, 0.7, 0.8, 0.9)
NAMES = (
    *(SERVICE, FULL_PATTERN, "random", "popularity", "popularity_decayed"),
    *("item_knn", "als", "ease", "slist"),
)
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Baseline:
    """How one is made, and the values of its hyperparameters that are tried; the first are where the search begins."""

    make: Callable[..., Method]
    grid: Mapping[str, Sequence[Any]]

    @property
    def trials(self) -> int:
        """How many are made in the search, at most."""
        return 1 + sum(len(values) - 1 for values in self.grid.values()) if self.grid else 0


def baselines_by_name(seed: int) -> dict[str, Baseline]:
    return {
        "random": Baseline(lambda: baselines.Random(seed), {}),
        "popularity": Baseline(baselines.Popularity, {}),
        "popularity_decayed": Baseline(baselines.PopularityDecayed, {"half_life_days": (14.0, 7.0, 30.0, 60.0)}),
        "item_knn": Baseline(baselines.ItemKNN, {"neighbours": (200, 50, 100, 400), "idf": (True, False)}),
        "als": Baseline(
            lambda **chosen: baselines.ALS(seed=seed, **chosen),
            {"factors": (64, 32, 128), "regularization": (5.0, 0.05, 20.0), "alpha": (2.0, 1.0, 5.0)},
        ),
        "ease": Baseline(baselines.EASE, {"regularization": (200.0, 50.0, 100.0, 500.0, 1000.0)}),
        "slist": Baseline(
            baselines.SLIST,
            {
                "regularization": (100.0, 30.0, 300.0, 1000.0),
                "alpha": (0.5, 0.2, 0.8),
                "position": (2.0, 1.0, 4.0),
                "recency": (8.0, 4.0, 16.0),
                "age_days": (120.0, 30.0, 1000.0),
            },
        ),
    }


def validation_plan(log: InteractionLog, seed: int, protocol: str) -> Plan:
    """Raises EvaluationError."""
    if protocol == PREQUENTIAL:
        return prequential(log, seed, *VALIDATION, refit_days=VALIDATION_REFIT_DAYS)
    parts = [last_item(log, seed, split, end) for split, end in pairwise(VALIDATION_SPLITS)]
    return Plan(protocol, [stretch for part in parts for stretch in part.stretches], 0)


def tuned(baseline: Baseline, plan: Plan, advance: Advance = lambda _: None) -> dict[str, Any]:
    """The best NDCG@10 on the validation part, looked for one hyperparameter after the other."""
    chosen = {name: values[0] for name, values in baseline.grid.items()}
    if not chosen:
        return chosen
    best = _ndcg(plan, baseline.make(**chosen), advance)
    for name, values in baseline.grid.items():
        for value in values[1:]:
            tried = chosen | {name: value}
            score = _ndcg(plan, baseline.make(**tried), advance)
            if score > best:
                chosen, best = tried, score
    return chosen


def _ndcg(plan: Plan, method: Method, advance: Advance) -> float:
    (answers,) = replay(plan, [method], advance)
    baskets = [basket for stretch in plan.stretches for basket in stretch.baskets]
    gains = 1.0 / np.log2(np.arange(2, 12))
    return float(
        sum(
            (np.isin(row, basket.taken) * gains[: len(row)]).sum()
            for row, basket in zip(answers.lists[:, :10], baskets, strict=True)
        )
        / plan.taken
    )
