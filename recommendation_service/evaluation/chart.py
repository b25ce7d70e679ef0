"""One chart of an evaluation, as an image and as a page that needs no network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair
import narwhals as nw

from recommendation_service.evaluation.protocol import Plan
from recommendation_service.evaluation.report import HEADINGS, title_of
from recommendation_service.evaluation.summary import FULL_PATTERN, SERVICE, Summary

NAME = "quality"
MEASURES = ("ndcg_10", "hit_10", "coverage")
_SERVICE_COLOUR, _OTHERS_COLOUR = "#d1495b", "#30638e"


def draw(results: Sequence[tuple[Plan, Sequence[Summary]]], name: str, folder: Path) -> list[Path]:
    """The files that were written, into a folder that is there. Raises OSError."""
    chart = altair.vconcat(*(_of_plan(plan, summaries) for plan, summaries in results)).properties(title=name)
    image, page = folder / f"{NAME}.png", folder / f"{NAME}.html"
    chart.save(image, ppi=100)
    chart.save(page, inline=True)
    return [image, page]


def _of_plan(plan: Plan, summaries: Sequence[Summary]) -> Any:
    """A panel a measure; methods in the order of their NDCG@10, each with its interval of 95 %."""
    order = [each.name for each in sorted(summaries, key=lambda each: -each.estimates["ndcg_10"].value)]
    panels = [_panel(measure, summaries, order) for measure in MEASURES]
    return altair.hconcat(*panels).properties(title=altair.Title(title_of(plan), fontSize=12))


def _panel(measure: str, summaries: Sequence[Summary], order: list[str]) -> Any:
    estimates = [each.estimates[measure] for each in summaries]
    rows = nw.from_dict(
        {
            "method": [each.name for each in summaries],
            "value": [each.value for each in estimates],
            "low": [each.low for each in estimates],
            "high": [each.high for each in estimates],
            "whose": ["service" if each.name in (SERVICE, FULL_PATTERN) else "others" for each in summaries],
        },
        backend="pyarrow",
    ).to_native()
    colours = altair.Scale(domain=["service", "others"], range=[_SERVICE_COLOUR, _OTHERS_COLOUR])
    base = altair.Chart(rows, width=230).encode(
        y=altair.Y("method:N", sort=order, title=None),
        color=altair.Color("whose:N", scale=colours, legend=None),
        tooltip=[
            "method",
            altair.Tooltip("value", format=".4f"),
            altair.Tooltip("low", format=".4f"),
            altair.Tooltip("high", format=".4f"),
        ],
    )
    interval = base.mark_rule().encode(x=altair.X("low:Q", title=HEADINGS[measure]), x2="high:Q")
    return interval + base.mark_point(filled=True, size=60, opacity=1).encode(x="value:Q")
