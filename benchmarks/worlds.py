"""Catalogs of any size, made in memory: the demo's words and tastes, without a database to fill first."""

from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.demo.vocabulary import json_word, vocabulary
from recommendation_service.mappings.interacpedia.builder import ENGAGEMENT, SourceTables, assemble_catalog
from recommendation_service.policies.policy import Policy
from recommendation_service.sources.reader import Table

USERS = 3_000
CHALLENGES = 130
USER_COLUMNS = ("id", "skills", "knowledges", "tools", "languages", "created_at", "updated_at")
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def make_catalog(
    videos: int, folder: Path, policy: Policy, *, skew: float = 1.8, views_per_video: int = 70, seed: int = 7
) -> Catalog:
    """A published catalog of ``videos`` résumé videos and 3,000 users with 5 to 80 interactions each.

    ``skew``: the σ of the log-normal popularity. The less skewed it is, the harder is retrieval: no
    head of an ordering then holds most of the best items.
    """
    tables = _tables(videos, skew, views_per_video, np.random.default_rng(seed))
    settings = Settings(_env_file=None, data_dir=folder)  # type: ignore[call-arg]
    store = CatalogStore(settings.catalog_dir, 1)
    version = store.publish(assemble_catalog(tables, {}, settings, policy, NOW))
    return store.open(version, verify=False)


def _tables(videos: int, skew: float, views_per_video: int, rng: np.random.Generator) -> SourceTables:
    words = vocabulary()
    weights = np.array([field.weight for field in words.fields])
    field_of = rng.choice(len(words.fields), videos, p=weights / weights.sum())
    popularity = np.exp(rng.normal(0, skew, videos))
    popularity /= popularity.sum()
    age_days = 358 * rng.beta(1.0, 1.3, videos)
    stamps = [(NOW - timedelta(days=float(days))).strftime("%Y-%m-%d %H:%M:%S") for days in age_days]
    creators = rng.integers(1, max(2, videos // 2) + 1, videos)
    ids = list(range(1, videos + 1))

    def lists(choices: list[tuple[str, ...]], least: int, most: int) -> list[str]:
        sizes = rng.integers(least, most + 1, videos)
        spare = rng.random((videos, most))
        result = []
        for row in range(videos):
            pool = choices[field_of[row]]
            chosen = dict.fromkeys(pool[int(x * len(pool))] for x in spare[row, : sizes[row]])
            result.append("[" + ",".join(json_word(word) for word in chosen) + "]")
        return result

    fields = words.fields
    languages = [words.languages for _ in fields]
    columns = {
        "id": ids,
        "creator_id": creators.tolist(),
        "creator_row": ids,
        "creator_name": [f"Creadora {creator}" for creator in creators],
        "city": ["Bogotá"] * videos,
        "country": ["Colombia"] * videos,
        "video": [f"https://media.example.com/resumes/{number}.mp4" for number in ids],
        "image": [None] * videos,
        "description": ["Trabajo en lo que me gusta y quiero compartirlo con más gente."] * videos,
        "skills": lists([field.skills for field in fields], 2, 6),
        "knowledges": lists([field.knowledges for field in fields], 0, 4),
        "tools": lists([field.tools for field in fields], 0, 4),
        "languages": lists(languages, 1, 2),
        "role_objectives": lists([field.objectives for field in fields], 1, 2),
        "created_at": stamps,
    }
    views = rng.poisson(popularity * videos * views_per_video)
    ratings = rng.binomial(views, 0.1)
    matches = rng.binomial(views, 0.05)
    engagement = {
        "views": {"views": views},
        "ratings": {"ratings": ratings, "average": np.where(ratings > 0, rng.uniform(2.5, 5.0, videos), 0.0)},
        "matches": {"matches": matches},
        "saves": {"saves": rng.binomial(views, 0.08)},
        "exhibitions": {"exhibitions": rng.binomial(views, 0.3)},
    }
    return SourceTables(
        users=Table({name: [] for name in USER_COLUMNS}),
        videos=Table(columns),
        challenges=_challenges(rng),
        connections=Table({"from_id": [], "to_id": [], "created_at": []}),
        interactions={"interactions_ratings": _interactions(field_of, popularity, rng)},
        engagement={
            name: Table({"video_id": ids} | {column: list(values) for column, values in engagement[name].items()})
            for name in ENGAGEMENT
        },
    )


def _interactions(field_of: np.ndarray, popularity: np.ndarray, rng: np.random.Generator) -> Table:  # type: ignore[type-arg]
    """Users who mostly follow one or two fields, and within these popularity."""
    by_field = [np.flatnonzero(field_of == field) for field in range(int(field_of.max()) + 1)]
    cumulative = [np.cumsum(popularity[members]).tolist() for members in by_field]
    users, items = [], []
    for user in range(1, USERS + 1):
        tastes = rng.choice(len(by_field), 2).tolist()
        for _ in range(int(rng.integers(5, 81))):
            field = tastes[rng.integers(2)] if rng.random() < 0.8 else int(rng.integers(len(by_field)))
            if len(by_field[field]) == 0:
                continue
            place = bisect_left(cumulative[field], rng.random() * cumulative[field][-1])
            users.append(10_000_000 + user)
            items.append(int(by_field[field][min(place, len(by_field[field]) - 1)]) + 1)
    days = rng.uniform(0, 89, len(users))
    return Table(
        {
            "user_id": users,
            "item_id": items,
            "weight": [2] * len(users),
            "happened_at": [(NOW - timedelta(days=day)).isoformat(" ")[:19] for day in days.tolist()],
        }
    )


def _challenges(rng: np.random.Generator) -> Table:
    ids = list(range(1, CHALLENGES + 1))
    stamps = [(NOW - timedelta(days=float(d))).strftime("%Y-%m-%d %H:%M:%S") for d in rng.uniform(0, 89, CHALLENGES)]
    names = ("status_at", "image", "slug", "talent_type", "interest_areas", "type_objectives", "city", "country")
    return Table(
        {
            "id": ids,
            "creator_id": [20_000_000 + number for number in ids],
            "creator_row": ids,
            "creator_name": ["Empresa"] * CHALLENGES,
            "name": [f"Reto {number}" for number in ids],
            "description": ["Buscamos talento."] * CHALLENGES,
            "video": [f"https://media.example.com/challenges/{number}.mp4" for number in ids],
            "created_at": stamps,
            "updated_at": stamps,
        }
        | {name: [None] * CHALLENGES for name in names}
    )
