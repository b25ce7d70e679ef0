"""What a mapping's feeds hold of what people take next, beside popularity: one cut by time, and one feed a person.

The catalog is built from the tables as of the cut, and feeds are asked for by their name, both as the service does it;
nothing of the ranking is repeated here. Of each person who took something after the cut there is one question: all
items of the catalog are candidates but those that the person had taken, and what is taken after the cut for the first
time is what is looked for.

- hit@24: whether anything of it is among the first 24. NDCG@10: Σ 1/log2(1 + rank) of it up to rank 10, over what the
  best order would have. Both are means over people, each counting once.
- A feed is drawn; so several of each person are, and a person's figures are their means.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from recommendation_service.catalog.mapped import build_mapped
from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.evaluation.baselines import ItemKNN, Popularity, PopularityDecayed
from recommendation_service.evaluation.errors import EvaluationError
from recommendation_service.evaluation.interaction_log import Float64, Int64
from recommendation_service.evaluation.intervals import Bootstrap, Estimate, percentiles
from recommendation_service.evaluation.mapped_part import Part, cut, rows_of
from recommendation_service.evaluation.protocol import LIST_LENGTH, Consumptions, Method, Past, Question
from recommendation_service.evaluation.service import COLD
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.loading import load_kernels
from recommendation_service.feed.request import FeedRequest
from recommendation_service.policies.policy import Policy
from recommendation_service.serving.preview import Preview
from recommendation_service.sources.mapping.source import MappedSource

SERVICE, BEST_FIRST = "service", "service, best first"
POPULARITY, DECAYED, ITEM_KNN = "popularity", "popularity_decayed", "item_knn"
HALF_LIFE_DAYS = 14.0
EVERYBODY, WITH_PAST, WITHOUT_PAST = "everybody", "with a past", "without a past"
GROUPS = (EVERYBODY, WITH_PAST, WITHOUT_PAST)
MEASURES = ("hit_24", "ndcg_10")
SHOWN = 10
FEEDS_EACH = 4  # of a person, by the policy with its draws
MOST_PEOPLE = 5_000
# What the service's figures are held to: a share of the better of these.
HELD_TO = (
    ("popularity", (POPULARITY, DECAYED), 0.97, (WITH_PAST, WITHOUT_PAST)),
    ("item_knn", (ITEM_KNN,), 0.9, (WITH_PAST,)),
)
Advance = Callable[[str, float], None]


@dataclass(frozen=True)
class Ratio:
    """The service's figure over the better of some methods'. ``least``: what it is held to."""

    group: str
    measure: str
    of: str
    estimate: Estimate
    least: float


@dataclass(frozen=True)
class Replayed:
    """``figures``: by group, method and measure."""

    mapping: str
    feed: str
    policy: str
    part: Part
    counts: dict[str, int]
    people: dict[str, int]  # by group
    figures: dict[str, dict[str, dict[str, Estimate]]]
    ratios: list[Ratio]
    report: dict[str, Any]  # the build's

    def as_json(self) -> dict[str, Any]:
        def said(estimate: Estimate) -> dict[str, float | None]:
            return {name: _number(value) for name, value in estimate._asdict().items()}

        return {
            "mapping": self.mapping,
            "feed": self.feed,
            "policy": self.policy,
            "cut": self.part.moment.isoformat(),
            "until": self.part.until.isoformat(),
            "counts": self.counts,
            "people": self.people,
            "figures": {
                group: {
                    method: {name: said(estimate) for name, estimate in measures.items()}
                    for method, measures in methods.items()
                }
                for group, methods in self.figures.items()
            },
            "ratios": [
                {"group": ratio.group, "measure": ratio.measure, "of": ratio.of, "least": ratio.least}
                | said(ratio.estimate)
                for ratio in self.ratios
            ],
            "collaborative": self.report["collaborative"],
        }


@dataclass(frozen=True)
class _Asked:
    """(n,) people who are asked for."""

    user: Int64  # their numbers
    had: list[Int64]  # rows, the latest last
    had_when: list[Int64]
    taken: list[Int64]  # rows, of which none was had


def replay_mapping(
    source: MappedSource,
    settings: Settings,
    policy: Policy,
    *,
    feed: str | None = None,
    begin: float = 0.8,
    end: float = 1.0,
    seed: int = 0,
    now: datetime | None = None,
    advance: Advance = lambda _what, _done: None,
) -> Replayed:
    """``feed``: by its name, the first unless given; the events from the share ``begin`` to ``end`` are what is looked
    for. Raises EvaluationError, SourceError, ConfigurationError."""
    names = list(policy.file.feeds)
    feed = feed or names[0]
    if feed not in names:
        raise EvaluationError([f"there is no feed {feed}; the feeds are {', '.join(names)}."])
    advance("reading", 0.0)
    part = cut(source, begin, end, now)
    with tempfile.TemporaryDirectory(prefix="recs-replay-") as folder:
        advance("building", 0.1)
        store = CatalogStore(Path(folder), 1, settings.item_time_zone)
        built = build_mapped(source.mapping, part.tables, settings, policy, part.moment)
        catalog = store.open(store.publish(built))
        load_kernels()
        asked, past, counts = _asked(part, catalog, list(source.mapping.content.items), seed)
        lists = _feeds(Preview(Generation(catalog, policy), settings), feed, asked, part, FEEDS_EACH, advance)
        best = _feeds(Preview(Generation(catalog, best_first(policy)), settings), feed, asked, part, 1, advance)
    found = {SERVICE: lists, BEST_FIRST: best}
    for method in (Popularity(), PopularityDecayed(HALF_LIFE_DAYS), ItemKNN()):
        advance(f"asking, {method.name}", 0.8)
        found[method.name] = _ranked(method, past, asked, part)
    values = {name: _measured(lists, asked.taken) for name, lists in found.items()}
    figures, people, ratios = _figures(asked, values, seed)
    return Replayed(
        str(source.mapping.path), feed, policy.version, part, counts, people, figures, ratios, built.report.as_json()
    )


def best_first(policy: Policy) -> Policy:
    """The policy without draws, evenly or otherwise: what is better always comes first."""
    file = policy.file
    kinds = {name: kind.model_copy(update={"temperature": COLD}) for name, kind in file.kinds.items()}
    still = file.model_copy(update={"kinds": kinds, "exploration": file.exploration.model_copy(update={"floor": 0.0})})
    return Policy(still, policy.arrays.theta, version=f"{policy.version}, best first")


def _asked(part: Part, catalog: Catalog, names: list[str], seed: int) -> tuple[_Asked, Past, dict[str, int]]:
    before_row, after_row = rows_of(catalog, names, part.before.item), rows_of(catalog, names, part.after.item)
    known = before_row >= 0
    user, row, when = part.before.user[known], before_row[known], part.before.when[known].astype(np.int64)
    items = len(catalog.arrays.item_id)
    first = _first(user, row)
    user, row, when = user[first], row[first], when[first]
    people = np.unique(np.concatenate([part.before.user, part.after.user]))
    number = np.searchsorted(people, user)
    histories = _by_person(number, row, when, len(people))
    there = after_row >= 0
    taken_by: dict[int, list[int]] = {}
    for one, item in dict.fromkeys(
        zip(np.searchsorted(people, part.after.user[there]).tolist(), after_row[there].tolist(), strict=True)
    ):
        taken_by.setdefault(one, []).append(item)
    again, asked = 0, []
    for one, taken in taken_by.items():
        new = np.setdiff1d(np.array(taken, np.int64), histories[one][0])
        again += len(taken) - len(new)
        if len(new):
            asked.append((one, new))
    if not asked:
        raise EvaluationError(["nobody took anything after the cut that was in the catalog then, and new to them."])
    counts = {
        "events_before": len(part.before.when),
        "events_after": len(part.after.when),
        "of_unknown_items": int((~there).sum()),
        "taken_again": again,
        "untimed": part.untimed,
        "items": items,
        "people": len(asked),
    }
    if len(asked) > MOST_PEOPLE:
        chosen = np.random.default_rng(seed).choice(len(asked), MOST_PEOPLE, replace=False)
        asked = [asked[place] for place in np.sort(chosen).tolist()]
    popularity = np.bincount(row, minlength=items)
    past = Past(
        int(part.moment.timestamp()),
        Consumptions(number, row, when),
        np.argsort(-popularity, kind="stable"),
        len(people),
        items,
    )
    of = [histories[one] for one, _ in asked]
    return (
        _Asked(
            people[[one for one, _ in asked]],
            [had for had, _ in of],
            [had_when for _, had_when in of],
            [new for _, new in asked],
        ),
        past,
        counts,
    )


def _first(user: Int64, row: Int64) -> Int64:
    """(n,) places of each person's first event with an item, in their order."""
    order = np.lexsort((np.arange(len(user)), row, user))
    ordered_user, ordered_row = user[order], row[order]
    changes = np.r_[True, (ordered_user[1:] != ordered_user[:-1]) | (ordered_row[1:] != ordered_row[:-1])]
    return np.sort(order[changes[: len(order)]])


def _by_person(number: Int64, row: Int64, when: Int64, people: int) -> list[tuple[Int64, Int64]]:
    order = np.argsort(number, kind="stable")
    bounds = np.searchsorted(number[order], np.arange(1, people))
    return list(zip(np.split(row[order], bounds), np.split(when[order], bounds), strict=True))


def _feeds(preview: Preview, feed: str, asked: _Asked, part: Part, each: int, advance: Advance) -> list[Int64]:
    """Of each feed of a person, (n, LIST_LENGTH) rows, -1 where one is shorter."""
    lists = [np.full((len(asked.user), LIST_LENGTH), -1) for _ in range(each)]
    moment = int(part.moment.timestamp())
    for place, user in enumerate(asked.user.tolist()):
        for draw, rows in enumerate(lists):
            request = FeedRequest(feed, user, LIST_LENGTH, f"replay-{draw}", now=moment, by_name=True)
            items = preview.slate(request).items
            rows[place, : len(items)] = items
        if place % 500 == 0:
            advance("asking for feeds", 0.3 + 0.4 * place / len(asked.user))
    return lists


def _ranked(method: Method, past: Past, asked: _Asked, part: Part) -> list[Int64]:
    method.fit(past)
    number = {user: place for place, user in enumerate(np.unique(asked.user).tolist())}
    lists = np.full((len(asked.user), LIST_LENGTH), -1)
    for place, user in enumerate(asked.user.tolist()):
        question = Question(number[user], int(part.moment.timestamp()), asked.had[place], asked.had_when[place])
        answer = method.rank(question)
        lists[place, : len(answer)] = answer
    return [lists]


def _measured(lists: Sequence[Int64], taken: Sequence[Int64]) -> dict[str, Float64]:
    """(n,) by measure: of each person the mean over the feeds."""
    gains = 1.0 / np.log2(np.arange(2, SHOWN + 2))
    ideal = np.concatenate([[0.0], np.cumsum(gains)])
    hits, ndcg = np.zeros((len(lists), len(taken))), np.zeros((len(lists), len(taken)))
    for draw, rows in enumerate(lists):
        for place, looked_for in enumerate(taken):
            found = np.isin(rows[place], looked_for)
            hits[draw, place] = found.any()
            ndcg[draw, place] = gains[found[:SHOWN]].sum() / ideal[min(len(looked_for), SHOWN)]
    return {"hit_24": hits.mean(axis=0), "ndcg_10": ndcg.mean(axis=0)}


def _figures(
    asked: _Asked, values: dict[str, dict[str, Float64]], seed: int
) -> tuple[dict[str, dict[str, dict[str, Estimate]]], dict[str, int], list[Ratio]]:
    has_past = np.array([len(had) > 0 for had in asked.had])
    chosen = {EVERYBODY: np.ones(len(has_past), bool), WITH_PAST: has_past, WITHOUT_PAST: ~has_past}
    figures: dict[str, dict[str, dict[str, Estimate]]] = {}
    ratios = []
    for group, rows in chosen.items():
        if not rows.any():
            continue
        bootstrap = Bootstrap(asked.user[rows], seed)
        drawn = {
            method: {measure: bootstrap.means(asked.user[rows], each[rows]) for measure, each in measures.items()}
            for method, measures in values.items()
        }
        figures[group] = {
            method: {measure: percentiles(each) for measure, each in measures.items()}
            for method, measures in drawn.items()
        }
        for of, methods, least, groups in HELD_TO:
            for measure in MEASURES if group in groups else ():
                better = max(methods, key=lambda method: figures[group][method][measure].value)
                with np.errstate(divide="ignore", invalid="ignore"):
                    shares = drawn[SERVICE][measure] / drawn[better][measure]
                shares = np.where(np.isfinite(shares), shares, np.nan)
                ratios.append(Ratio(group, measure, of, percentiles(shares), least))
    return figures, {group: int(rows.sum()) for group, rows in chosen.items()}, ratios


def _number(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None
