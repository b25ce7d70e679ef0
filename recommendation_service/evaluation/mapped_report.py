"""What a person reads of a mapping's replay: a table, and one of what it is held to; and the chart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recommendation_service.core.output import print_rows
from recommendation_service.evaluation.intervals import Estimate
from recommendation_service.evaluation.mapped_replay import GROUPS, MEASURES, Ratio, Replayed

HEADINGS = {"hit_24": "hit@24", "ndcg_10": "NDCG@10"}
NAME = "quality"


def print_replayed(found: Replayed) -> None:
    groups = [group for group in GROUPS if group in found.figures]
    headings = ["method", *(f"{HEADINGS[measure]}, {group}" for group in groups for measure in MEASURES)]
    methods = list(found.figures[groups[0]])
    rows = [
        (method, *(_plain(found.figures[group][method][measure]) for group in groups for measure in MEASURES))
        for method in methods
    ]
    print_rows(headings, rows, title=title_of(found), right=range(1, len(headings)))
    print_rows(
        ["the service's share of", "", "", "share", "interval", "at least", ""],
        [
            (
                "the better popularity's" if ratio.of == "popularity" else "item-kNN's",
                HEADINGS[ratio.measure],
                ratio.group,
                f"{ratio.estimate.value:.3f}",
                f"{ratio.estimate.low:.3f} to {ratio.estimate.high:.3f}",
                f"{ratio.least:.2f}",
                verdict(ratio),
            )
            for ratio in found.ratios
        ],
        title="Feeds with their draws, paired by person",
    )


def title_of(found: Replayed) -> str:
    counts, people = found.counts, found.people
    said = [
        f"{counts['events_before']:,} events until {found.part.moment:%Y-%m-%d %H:%M}",
        f"{counts['events_after']:,} after",
        f"{counts['of_unknown_items']:,} of those of items that were not there",
        f"{counts['taken_again']:,} items taken again",
        f"{people['with a past']:,} people with a past and {people['without a past']:,} without",
    ]
    return f"{found.mapping}, feed {found.feed}: {', '.join(said)}"


def verdict(ratio: Ratio) -> str:
    if np.isnan(ratio.estimate.value):
        return "nothing to tell"
    return "reached" if ratio.estimate.value >= ratio.least else "missed"


def draw(found: Sequence[tuple[str, Replayed]], folder: Path) -> list[Path]:
    """The files that were written, into a folder that is there: a panel a measure and group. Raises OSError."""
    import altair
    import narwhals as nw

    rows: dict[str, list[Any]] = {name: [] for name in ("data", "panel", "method", "value", "low", "high")}
    for name, one in found:
        for group, methods in one.figures.items():
            for method, measures in methods.items():
                for measure, estimate in measures.items():
                    said = (name, f"{HEADINGS[measure]}, {group}", method, *estimate)
                    for column, value in zip(rows.values(), said, strict=True):
                        column.append(value)
    table = nw.from_dict(rows, backend="pyarrow").to_native()
    base = altair.Chart(table, width=230).encode(
        y=altair.Y("method:N", sort=list(found[0][1].figures["everybody"]), title=None),
        tooltip=["data", "method", altair.Tooltip("value", format=".4f")],
    )
    panel = base.mark_rule().encode(x=altair.X("low:Q", title=None), x2="high:Q") + base.mark_point(
        filled=True, size=60, opacity=1
    ).encode(x="value:Q")
    chart = panel.facet(row=altair.Row("data:N", title=None), column=altair.Column("panel:N", title=None))
    image, page = folder / f"{NAME}-mappings.png", folder / f"{NAME}-mappings.html"
    chart.save(image, ppi=100)
    chart.save(page, inline=True)
    return [image, page]


def _plain(estimate: Estimate) -> str:
    if np.isnan(estimate.value):
        return "-"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
