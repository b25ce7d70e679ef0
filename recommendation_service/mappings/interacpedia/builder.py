"""Builds a catalog from the first operator's tables: read, clean, number, compute, order."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from recommendation_service.catalog import cleaning
from recommendation_service.catalog.arrangement import DAY_SECONDS, Contents, arranged
from recommendation_service.catalog.built import BuiltCatalog
from recommendation_service.catalog.item_features import ItemStatistics, item_features
from recommendation_service.catalog.kept_lists import KeptLists
from recommendation_service.catalog.people import Interactions, People, places
from recommendation_service.catalog.report import BlacklistReport, BuildReport, NotPersonalReport
from recommendation_service.catalog.vocabulary import Vocabulary
from recommendation_service.core.config import Settings
from recommendation_service.mappings.interacpedia.items import (
    Eligibility,
    Items,
    eligible_challenges,
    eligible_videos,
)
from recommendation_service.mappings.interacpedia.people import gather_interactions, gather_people
from recommendation_service.mappings.interacpedia.words import CHALLENGE, RESUME
from recommendation_service.model.columns import CatalogArrays, Int64
from recommendation_service.model.features import FEATURES
from recommendation_service.policies.policy import Policy
from recommendation_service.sources.blacklist import read_blacklist
from recommendation_service.sources.lists import read_cities
from recommendation_service.sources.not_personal import NotPersonal, read_not_personal
from recommendation_service.sources.reader import Snapshot, Table

if TYPE_CHECKING:
    from recommendation_service.mappings.interacpedia.source import Source

INTERACTIONS = ("interactions_ratings", "interactions_matches", "interactions_saves", "interactions_views")
ENGAGEMENT = ("ratings", "matches", "saves", "exhibitions", "views")


@dataclass
class SourceTables:
    """Everything read from the source for one build."""

    users: Table
    videos: Table
    challenges: Table
    connections: Table
    interactions: dict[str, Table]
    engagement: dict[str, Table]
    not_personal: NotPersonal = field(default_factory=NotPersonal)


def read_source(source: "Source", settings: Settings, now: datetime) -> tuple[SourceTables, dict[str, float]]:
    """One consistent snapshot of all tables, and the milliseconds of each query."""
    with source.snapshot(now) as snapshot:
        return _read(snapshot, settings), snapshot.milliseconds


def _read(snapshot: Snapshot, settings: Settings) -> SourceTables:
    return SourceTables(
        users=snapshot.read("users"),
        videos=snapshot.read("videos"),
        challenges=snapshot.read("challenges"),
        connections=snapshot.read("connections"),
        interactions={name: snapshot.read(name) for name in INTERACTIONS},
        engagement={name: snapshot.read(f"engagement_{name}") for name in ENGAGEMENT},
        not_personal=read_not_personal(snapshot.connection, settings),
    )


def assemble_catalog(
    tables: SourceTables,
    milliseconds: dict[str, float],
    settings: Settings,
    policy: Policy,
    now: datetime,
    kept: KeptLists | None = None,
) -> BuiltCatalog:
    """The whole build from tables in memory."""
    started = time.perf_counter()
    report = BuildReport(query_milliseconds=milliseconds)
    not_personal = tables.not_personal
    report.not_personal = NotPersonalReport(len(not_personal.listed), not_personal.held)
    report.warnings += not_personal.warnings
    rules = eligibility(settings, policy, report)
    seconds = now.timestamp()
    videos = eligible_videos(tables.videos, rules, seconds, report)
    challenges_since = (now - timedelta(days=settings.challenges_window_days)).timestamp()
    challenges = eligible_challenges(tables.challenges, rules, seconds, challenges_since, report)
    count = len(videos.ids)

    vocabulary = Vocabulary()
    tokens = vocabulary.rows([*videos.tokens, *challenges.tokens])
    creator_ids = np.unique(np.array([*videos.creator_ids, *challenges.creator_ids], np.int64))
    video_ids, challenge_ids = np.array(videos.ids, np.int64), np.array(challenges.ids, np.int64)
    interactions, for_lists = gather_interactions(
        tables.interactions,
        not_personal.listed,
        video_ids,
        challenge_ids,
        seconds,
        (now - timedelta(days=settings.interactions_window_days)).replace(microsecond=0).timestamp(),
        report,
    )
    people = gather_people(
        tables.users,
        tables.connections,
        interactions,
        not_personal.listed,
        creator_ids,
        vocabulary,
        rules.cuts,
        seconds,
        (now - timedelta(days=settings.users_window_days)).timestamp(),
        report,
    )
    absent = len(vocabulary)
    tokens = vocabulary.fill_absent(tokens)
    created = np.array([*videos.created, *challenges.created], np.float64)
    age_days = (seconds - created) / DAY_SECONDS
    X = np.zeros((len(tokens), len(policy.feature_names)))
    X[:count] = item_features(
        _statistics(tables.engagement, video_ids, age_days[:count], tokens[:count], absent, report),
        policy.file,
    )
    recency = item_features(_only_age(age_days[count:]), policy.file)
    X[count:, 1] = recency[:, 1]
    X[count:, FEATURES:] = recency[:, FEATURES:]
    contents = Contents(
        item_types={"resume": RESUME, "challenge": CHALLENGE},
        type_offsets=np.array([0, count, len(tokens)]),
        worded=count,
        item_id=np.concatenate([video_ids, challenge_ids]),
        created=created,
        creators=np.array([*videos.creator_ids, *challenges.creator_ids], np.int64),
        cities=[*videos.cities, *challenges.cities],
        tokens=tokens,
        features=X,
        vocabulary=vocabulary,
        interactions=interactions,
        taken=for_lists,
        people=people,
    )
    arrays, names = arranged(
        contents, policy, seconds, kept or KeptLists(), report, collaborative=settings.collaborative
    )
    report.counts = _counts(videos, challenges, interactions, people, arrays)
    report.build_milliseconds = round((time.perf_counter() - started) * 1000, 1)
    return BuiltCatalog(
        arrays=arrays,
        item_types=contents.item_types,
        item_bodies=[*videos.bodies, *challenges.bodies],
        names=names,
        report=report,
        built_at=now,
        policy_version=policy.version,
        policy_digest=policy.catalog_digest,
        added_features=policy.added_features,
        item_time_zone=settings.item_time_zone,
        not_personal=not_personal.users,
    )


def eligibility(settings: Settings, policy: Policy, report: BuildReport) -> Eligibility:
    """The rules that need a look at the values. Raises SourceError where there should be a blacklist and is none."""
    cities, city_warnings = read_cities(settings.cities_file)
    blacklist = read_blacklist(settings)
    report.warnings += [*city_warnings, *blacklist.warnings]
    report.blacklist = BlacklistReport(len(blacklist.addresses), blacklist.was_read, blacklist.held)
    cuts = policy.file.cuts
    return Eligibility(
        blacklist=blacklist.addresses,
        test_words=cleaning.whole_words(settings.test_row_words),
        cities=cities,
        media_base_url=settings.media_base_url,
        time_zone="Z" if settings.item_times_with_zone else "",
        zone=UTC if settings.item_times_with_zone else settings.database_zone,
        cuts=(cuts.skills, cuts.knowledges, cuts.tools, cuts.languages),
        video_as_image=settings.video_as_image,
    )


def _statistics(
    engagement: dict[str, Table],
    video_ids: Int64,
    age_days: Any,
    tokens: Any,
    absent: int,
    report: BuildReport,
) -> ItemStatistics:
    """Engagement totals joined with the eligible videos; a total of a video that is not here is left out."""

    known = {}
    for name in ENGAGEMENT:
        place = places(video_ids, cleaning.ids(engagement[name]["video_id"], f"engagement_{name}.video_id", report))
        known[name] = (place[place >= 0], place >= 0)

    def total(name: str, column: str) -> Any:
        values = np.zeros(len(video_ids))
        place, rows = known[name]
        values[place] = cleaning.numbers(engagement[name][column], f"engagement_{name}.{column}", report)[rows]
        return values

    skills = tokens[:, :5]
    present = skills != absent
    uses = np.bincount(skills[present], minlength=absent + 1)
    skill_count = present.sum(axis=1)
    rarity = np.where(present, 1.0 / (uses[skills] + 1.0), 0.0).sum(axis=1) / np.maximum(skill_count, 1)
    return ItemStatistics(
        age_days=age_days,
        views=total("views", "views"),
        average=np.minimum(5.0, total("ratings", "average")),
        ratings=total("ratings", "ratings"),
        matches=total("matches", "matches"),
        saves=total("saves", "saves"),
        exhibitions=total("exhibitions", "exhibitions"),
        attribute_count=(tokens[:, :11] != absent).sum(axis=1).astype(np.float64),
        rarity=rarity,
    )


def _only_age(age_days: Any) -> ItemStatistics:
    nothing = np.zeros(len(age_days))
    return ItemStatistics(age_days, *[nothing] * (len(ItemStatistics._fields) - 1))


def _counts(
    videos: Items, challenges: Items, interactions: Interactions, people: People, arrays: CatalogArrays
) -> dict[str, int]:
    return {
        "users": people.recent,
        "videos": len(videos.ids),
        "video_creators": len(set(videos.creator_ids)),
        "challenges": len(challenges.ids),
        "interactions": interactions.read,
        "connections": people.connected,
        "known_users": len(arrays.user_id),
        "tokens": len(arrays.token_kind) - 1,
        "cities": arrays.cities,
    }
