"""Small catalogs from plain descriptions, through the real builder.

    world = World(videos=[Video(7, creator=1, skills=("python",))], challenges=[Challenge(7, creator=2)])
    catalog = make_catalog(world)

A description says what the operator's tables hold; the rows that the SQL files would give are made from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recommendation_service.catalog.builder import BuiltCatalog
from recommendation_service.catalog.list_orders import list_orders
from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.config import load_settings
from recommendation_service.mappings.interacpedia.builder import (
    ENGAGEMENT,
    INTERACTIONS,
    SourceTables,
    assemble_catalog,
)
from recommendation_service.model.columns import COLUMNS, SIZES
from recommendation_service.policies.policy import Policy, load_policy
from recommendation_service.sources.reader import Table

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)

ItemType = Literal["resume", "challenge"]
# What identifies an item: a résumé and a challenge may bear one number.
Key = tuple[ItemType, int]

InteractionKind = Literal["rating", "match", "save", "view"]
_TABLE_OF: dict[InteractionKind, str] = {
    "rating": "interactions_ratings",
    "match": "interactions_matches",
    "save": "interactions_saves",
    "view": "interactions_views",
}
_WEIGHT_OF: dict[InteractionKind, float] = {"rating": 5.0, "match": 4.0, "save": 3.0, "view": 2.0}


@dataclass(frozen=True)
class Video:
    id: int
    creator: int
    skills: tuple[str, ...] = ()
    knowledges: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    city: str = ""
    age_days: float = 10.0
    average: float = 0.0
    ratings: int = 0
    matches: int = 0
    saves: int = 0
    exhibitions: int = 0
    views: int = 0

    @cached_property  # asked for millions of times
    def key(self) -> Key:
        return ("resume", self.id)

    def __hash__(self) -> int:  # oracles look things up by items and users all the time, and all fields are many
        return self.id


@dataclass(frozen=True)
class Challenge:
    id: int
    creator: int
    city: str = ""
    age_days: float = 10.0
    updated_days: float = 0.0

    @cached_property
    def key(self) -> Key:
        return ("challenge", self.id)

    def __hash__(self) -> int:
        return self.id


Item = Video | Challenge


@dataclass(frozen=True)
class Interaction:
    """With a résumé video, or by a view with a challenge."""

    item_id: int
    days_ago: float = 1.0
    kind: InteractionKind = "save"
    item_type: ItemType = "resume"

    @cached_property
    def key(self) -> Key:
        return (self.item_type, self.item_id)


@dataclass(frozen=True)
class User:
    """``recent``: whether the users table gives a row with the profile."""

    id: int
    history: tuple[Interaction, ...] = ()
    skills: tuple[str, ...] = ()
    knowledges: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    recent: bool = True

    def __hash__(self) -> int:
        return self.id


@dataclass(frozen=True)
class World:
    videos: Sequence[Video] = ()
    challenges: Sequence[Challenge] = ()
    users: Sequence[User] = ()
    connections: Sequence[tuple[int, int]] = ()

    @cached_property
    def items(self) -> list[Item]:
        """In the catalog's order, so that an item's place here is its index there."""
        return [
            *sorted(self.videos, key=lambda video: video.id),
            *sorted(self.challenges, key=lambda challenge: challenge.id),
        ]


@cache
def days_before(days: float, now: datetime = NOW) -> datetime:
    """A moment as the operator's tables can hold it: in whole seconds."""
    return (now - timedelta(days=days)).replace(microsecond=0)


def make_catalog(world: World, policy: Policy | None = None, now: datetime = NOW) -> Catalog:
    """A catalog in memory, with the columns that a reader of a published one sees."""
    return in_memory(build(world, policy, now))


def build(world: World, policy: Policy | None = None, now: datetime = NOW) -> BuiltCatalog:
    return assemble_catalog(source_tables(world, now), {}, _default_settings(), policy or _starting_policy(), now)


# Reading them took an eighth of the property tests' time.
_default_settings, _starting_policy = cache(load_settings), cache(load_policy)


def published(built: BuiltCatalog, folder: Path) -> Catalog:
    """The catalog written to ``folder`` and opened again, as a worker does."""
    store = CatalogStore(folder, keep=1)
    return store.open(store.publish(built))


def in_memory(built: BuiltCatalog) -> Catalog:
    """The same without a disk.

    The columns are read-only as mapped ones are, because for other types Numba would compile the
    kernels a second time.
    """
    columns = {}
    for name, (dtype, dimensions) in COLUMNS.items():
        column = np.ascontiguousarray(getattr(built.arrays, name))
        assert column.dtype == dtype, f"{name} is {column.dtype}"
        assert column.ndim == dimensions, f"{name} has {column.ndim} dimensions"
        columns[name] = frozen(column)
    sizes = {name: getattr(built.arrays, name) for name in SIZES}
    offsets = np.cumsum([0, *(len(body) for body in built.item_bodies)], dtype=np.int64)
    manifest = {
        "built_at": built.built_at.isoformat(),
        "report": built.report.as_json(),
        "added_features": built.added_features,
        "item_types": built.item_types,
    }
    arrays = type(built.arrays)(**columns, **sizes)
    return Catalog(
        version="in-memory",
        manifest=manifest,
        arrays=arrays,
        item_offsets=frozen(offsets),
        item_bytes=memoryview(b"".join(built.item_bodies)),
        orders=list_orders(arrays),
    )


def frozen(column: Any) -> Any:
    """A read-only view."""
    view = column.view()
    view.flags.writeable = False
    return view


def source_tables(world: World, now: datetime = NOW) -> SourceTables:
    """The rows that the queries would give for ``world``."""
    yesterday = _text(days_before(1, now))
    return SourceTables(
        users=_table(
            ("id", "skills", "knowledges", "tools", "languages", "created_at", "updated_at"),
            ((user.id, *_lists(user), yesterday, None) for user in world.users if user.recent),
        ),
        videos=_table(
            (
                "id", "creator_id", "creator_row", "creator_name", "city", "country", "video", "image",
                "description", "skills", "knowledges", "tools", "languages", "role_objectives", "created_at",
            ),
            (
                (
                    video.id, video.creator, video.creator, f"Creator {video.creator}", video.city, None,
                    f"https://media/{video.id}.mp4", None, f"About {video.id}",
                    *_lists(video), None, _text(days_before(video.age_days, now)),
                )
                for video in world.videos
            ),
        ),
        challenges=_table(
            (
                "id", "creator_id", "creator_row", "creator_name", "city", "country", "name", "slug", "description",
                "video", "image", "talent_type", "interest_areas", "type_objectives", "status_at", "created_at",
                "updated_at",
            ),
            (
                (
                    challenge.id, challenge.creator, challenge.creator, f"Creator {challenge.creator}",
                    challenge.city, None,
                    f"Challenge {challenge.id}", None, None, f"https://media/challenge-{challenge.id}.mp4",
                    None, None, None, None, None,
                    _text(days_before(challenge.age_days, now)), _text(days_before(challenge.updated_days, now)),
                )
                for challenge in world.challenges
            ),
        ),
        connections=_table(
            ("from_id", "to_id", "created_at"), ((one, other, yesterday) for one, other in world.connections)
        ),
        interactions={name: _interactions(world, name, now) for name in INTERACTIONS},
        engagement={name: _engagement(world, name) for name in ENGAGEMENT},
    )  # fmt: skip


def _interactions(world: World, name: str, now: datetime) -> Table:
    rows = [
        (
            user.id,
            interaction.item_id,
            _WEIGHT_OF[interaction.kind],
            _text(days_before(interaction.days_ago, now)),
            int(interaction.item_type == "challenge"),
        )
        for user in world.users
        for interaction in user.history
        if _TABLE_OF[interaction.kind] == name
    ]
    if name == "interactions_views":
        return _table(("user_id", "item_id", "weight", "happened_at", "is_challenge"), rows)
    assert not any(is_challenge for *_, is_challenge in rows), "only a view can be of a challenge"
    return _table(("user_id", "item_id", "weight", "happened_at"), (row[:-1] for row in rows))


def _engagement(world: World, name: str) -> Table:
    if name == "ratings":
        rated = ((video.id, video.ratings, video.average) for video in world.videos if video.ratings)
        return _table(("video_id", "ratings", "average"), rated)
    counted = ((video.id, getattr(video, name)) for video in world.videos if getattr(video, name))
    return _table(("video_id", name), counted)


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    listed = list(rows)
    return Table({name: [row[place] for row in listed] for place, name in enumerate(columns)})


def _lists(owner: Video | User) -> list[str | None]:
    """Lists as the JSON text that the tables hold; an empty one as null."""
    lists = (owner.skills, owner.knowledges, owner.tools, owner.languages)
    return [json.dumps(entries, ensure_ascii=False) if entries else None for entries in lists]


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S")
