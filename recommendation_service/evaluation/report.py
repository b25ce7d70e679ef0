"""What a person reads of an evaluation: a table a protocol."""

from collections.abc import Sequence

import numpy as np

from recommendation_service.core.output import print_rows
from recommendation_service.evaluation.intervals import Estimate
from recommendation_service.evaluation.measures import MEASURES
from recommendation_service.evaluation.protocol import LAST_ITEM, PREQUENTIAL, Plan
from recommendation_service.evaluation.summary import AGES_DAYS, HISTORIES, Summary

HEADINGS = {
    "ndcg_10": "NDCG@10",
    "ndcg_24": "NDCG@24",
    "recall_10": "Recall@10",
    "recall_24": "Recall@24",
    "hit_10": "Hit@10",
    "hit_24": "Hit@24",
    "coverage": "coverage",
    "gini": "Gini",
    "novelty": "novelty",
    "diversity": "diversity",
    "calibration": "calibration",
}
TITLES = {
    PREQUENTIAL: "Prequential: the last 20 %, test then train, a refit a day",
    LAST_ITEM: "Last item: one question a user after the first 90 %",
}


def print_summaries(plan: Plan, summaries: Sequence[Summary]) -> None:
    rows = [
        (
            summary.name,
            _with_interval(summary.estimates["ndcg_10"]),
            _difference(summary),
            *(_plain(summary.estimates[name]) for name in MEASURES if name != "ndcg_10"),
        )
        for summary in summaries
    ]
    headings = ["method", "NDCG@10", "less service", *(HEADINGS[name] for name in MEASURES if name != "ndcg_10")]
    print_rows(headings, rows, title=title_of(plan), right=range(1, len(headings)))
    _print_groups(summaries, "NDCG@10 by how many items the user had had (consumptions)", list(HISTORIES), "ndcg_10")
    _print_groups(summaries, "Hit@10 by the same", list(HISTORIES), "hit_10")
    _print_groups(summaries, "NDCG@10 by the item's age", list(AGES_DAYS), "ndcg_10")


def title_of(plan: Plan) -> str:
    left_out = (
        f", {plan.unknown_items:,} of items that were not there at the refit left out" if plan.unknown_items else ""
    )
    asked = f"{plan.taken:,} consumptions in {plan.baskets:,} baskets (of a user and second){left_out}"
    return f"{TITLES[plan.protocol]}. {asked}"


def _print_groups(summaries: Sequence[Summary], title: str, groups: Sequence[str], measure: str) -> None:
    rows = [
        (summary.name, *(_plain((summary.by_history | summary.by_item_age)[group][measure]) for group in groups))
        for summary in summaries
    ]
    sizes = summaries[0].sizes
    headings = ["method", *(f"{group.replace('_', ' ')} ({sizes[group]:,})" for group in groups)]
    print_rows(headings, rows, title=title, right=range(1, len(headings)))


def _plain(estimate: Estimate) -> str:
    return "-" if np.isnan(estimate.value) else f"{estimate.value:.3f}"


def _with_interval(estimate: Estimate) -> str:
    return f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"


def _difference(summary: Summary) -> str:
    found = summary.differences.get("ndcg_10")
    return "" if found is None else f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
