"""A whole evaluation: plans, hyperparameters, answers, figures."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from recommendation_service.core.config import load_settings
from recommendation_service.evaluation.interaction_log import InteractionLog
from recommendation_service.evaluation.methods import (
    baselines_by_name,
    tuned,
    validation_plan,
)
from recommendation_service.evaluation.protocol import PREQUENTIAL, Method, Plan, last_item, prequential
from recommendation_service.evaluation.replay import replay
from recommendation_service.evaluation.service import ReplayedOperator, ServiceReplay, ranking_alone
from recommendation_service.evaluation.summary import FULL_PATTERN, SERVICE, Summaries, Summary
from recommendation_service.policies.policy import Policy

Told = Callable[[str, float], None]  # what is being done, and the share of all that is done
# So many threads in every product and inverse: with more, sums depend on the machine, and so do some lists.
BLAS_THREADS = 1
# Of the closed forms, which need several matrices of the square of it.
MOST_ITEMS = 10_000
CLOSED_FORMS = ("ease", "slist")


class Evaluation:
    def __init__(
        self, log: InteractionLog, policy: Policy, protocols: Sequence[str], names: Sequence[str], seed: int
    ) -> None:
        """Raises EvaluationError where the log is too short."""
        self._log, self._policy, self._seed = log, policy, seed
        self._plans = [
            prequential(log, seed) if protocol == PREQUENTIAL else last_item(log, seed) for protocol in protocols
        ]
        self._validations = [validation_plan(log, seed, protocol) for protocol in protocols]
        self.left_out = [name for name in names if name in CLOSED_FORMS and log.items > MOST_ITEMS]
        # The service first, since the others are compared with it.
        asked = [name for name in dict.fromkeys(names) if name not in self.left_out]
        self._names = sorted(asked, key=lambda name: name != SERVICE)
        self._baselines = {name: each for name, each in baselines_by_name(seed).items() if name in self._names}
        trials = sum(each.trials for each in self._baselines.values())
        self._questions = sum(plan.baskets for plan in self._validations) * trials
        self._questions += sum(plan.baskets for plan in self._plans) * len(self._names)
        self._asked = 0

    def run(self, told: Told = lambda _what, _done: None) -> list[tuple[Plan, list[Summary]]]:
        results: list[tuple[Plan, list[Summary]]] = []
        with threadpool_limits(BLAS_THREADS), tempfile.TemporaryDirectory(prefix="recs-replay-") as folder:
            for number, (plan, validation) in enumerate(zip(self._plans, self._validations, strict=True)):
                chosen = self._chosen(plan, validation, told)
                operator = self._operator(Path(folder) / str(number))
                methods = [self._method(name, operator, chosen) for name in self._names]
                answers = replay(
                    plan, [method for method, _ in methods], self._advance(f"asking, {plan.protocol}", told)
                )
                summaries = Summaries(plan, self._log, self._seed)
                results.append(
                    (plan, [summaries.of(each, given) for each, (_, given) in zip(answers, methods, strict=True)])
                )
        return results

    def _chosen(self, plan: Plan, validation: Plan, told: Told) -> dict[str, dict[str, Any]]:
        """Hyperparameters of each baseline."""
        chosen = {}
        for name, baseline in self._baselines.items():
            expected = self._asked + baseline.trials * validation.baskets
            what = f"choosing for {name}, {plan.protocol}"
            chosen[name] = tuned(baseline, validation, self._advance(what, told))
            self._asked = expected
        return chosen

    def _operator(self, folder: Path) -> ReplayedOperator | None:
        if not {SERVICE, FULL_PATTERN} & set(self._names):
            return None
        folder.mkdir()
        return ReplayedOperator(self._log, load_settings(), self._policy, folder)

    def _method(
        self, name: str, operator: ReplayedOperator | None, chosen: dict[str, dict[str, Any]]
    ) -> tuple[Method, dict[str, Any]]:
        if operator is not None and name in (SERVICE, FULL_PATTERN):
            policy = ranking_alone(self._policy) if name == SERVICE else self._policy
            return ServiceReplay(name, operator, policy), {"policy": policy.version}
        return self._baselines[name].make(**chosen[name]), chosen[name]

    def _advance(self, what: str, told: Told) -> Callable[[int], None]:
        def advance(asked: int) -> None:
            self._asked += asked
            told(what, self._asked / max(1, self._questions))

        told(what, self._asked / max(1, self._questions))
        return advance
