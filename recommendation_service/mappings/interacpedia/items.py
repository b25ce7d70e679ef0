"""Eligible résumé videos and challenges: which rows count, and the ready-made JSON of each item."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Any

import msgspec

from recommendation_service.catalog import cleaning
from recommendation_service.catalog.item_forms import TIME_FORM
from recommendation_service.catalog.rejections import (
    BLACKLISTED,
    NO_CREATOR,
    NO_TIME,
    NO_VIDEO,
    SUPERSEDED,
    TEST_ROW,
    TOO_OLD,
    UNKNOWN_CREATOR,
)
from recommendation_service.catalog.report import BuildReport
from recommendation_service.mappings.interacpedia.words import CHALLENGE, RESUME
from recommendation_service.model.item_keys import LARGEST_ITEM, pack
from recommendation_service.sources.lists import Cities
from recommendation_service.sources.reader import Table


class ResumeItem(msgspec.Struct):
    """A résumé item as clients get it."""

    id: int
    name: str
    slug: str
    description: str
    video: str
    image: str
    user_id: int
    user_name: str
    user_slug: str
    avatar: str
    role_objectives: list[str]
    type: str = "resume"
    main_objective: str = "be_discovered"
    type_audience: str = "innovators"
    type_audiences: list[str] = msgspec.field(default_factory=lambda: ["innovators"])
    interest_areas: list[str] = msgspec.field(default_factory=list)
    connected: str = ""


class ChallengeItem(msgspec.Struct):
    """A challenge item as clients get it; ``status_at`` only where known."""

    id: int
    name: str
    slug: str
    description: str
    video_url: str
    image: str
    user_id: int
    user_name: str
    user_slug: str
    user_avatar: str
    talent_type: str
    interest_areas: list[str]
    type_objectives: list[str]
    created_at: str
    updated_at: str
    type: str = "challenge"
    top: bool = True
    status_at: str | msgspec.UnsetType = msgspec.UNSET


@dataclass
class Items:
    """Eligible items of one type, sorted by id; all lists run parallel."""

    ids: list[int] = field(default_factory=list)
    creator_ids: list[int] = field(default_factory=list)
    created: list[float] = field(default_factory=list)  # seconds since 1970
    cities: list[str] = field(default_factory=list)
    tokens: list[tuple[list[str], list[str], list[str], list[str]]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class Eligibility:
    """The rules that need a look at the values."""

    blacklist: frozenset[str]
    test_words: re.Pattern[str] | None
    cities: Cities
    media_base_url: str
    time_zone: str  # what ends a time of an item: nothing, or Z
    zone: tzinfo  # that time's
    cuts: tuple[int, int, int, int]  # of skills, knowledges, tools, languages
    video_as_image: bool  # of an item that has no picture

    def broken_by(self, video: str, texts: Sequence[str], table: str, report: BuildReport) -> str:
        """The rule that keeps a row out, which is counted; empty where none does."""
        if not video:
            report.aside(f"{table}.video", "empty")
            return NO_VIDEO
        if video in self.blacklist:
            report.aside(f"{table}.video", "blacklisted")
            return BLACKLISTED
        if self.test_words and any(self.test_words.search(text) for text in (video, *texts)):
            report.aside(table, "test row")
            return TEST_ROW
        return ""

    def time(self, seconds: float) -> str:
        """ISO 8601 to the second; empty where it is not known."""
        if math.isnan(seconds):
            return ""
        return datetime.fromtimestamp(seconds, self.zone).strftime(TIME_FORM) + self.time_zone

    def image(self, stored: Any, video: str) -> str:
        return cleaning.text(stored).strip() or (video if self.video_as_image else "")

    def avatar(self, user_id: int) -> str:
        return f"{self.media_base_url.rstrip('/')}/users/{user_id}/avatar-100.png"


_encode = msgspec.json.Encoder().encode
_LISTS = ("skills", "knowledges", "tools", "languages")


def eligible_videos(table: Table, rules: Eligibility, now: float, report: BuildReport) -> Items:
    """Résumé videos that may be shown, from the rows of ``videos.sql``."""
    items = Items()
    ids = cleaning.ids(table["id"], "resumes.id", report, LARGEST_ITEM)
    creators = cleaning.ids(table["creator_id"], "resumes.user_id", report)
    created = cleaning.epoch_seconds(table["created_at"], "resumes.created_at", now, report, zone=table.zone)
    order = sorted(range(len(ids)), key=ids.__getitem__)
    columns = table.columns
    last = 0
    for row in order:
        item_id, creator = int(ids[row]), int(creators[row])
        if item_id in (0, last):
            continue
        key = pack(RESUME, item_id)
        if creator == 0 or math.isnan(created[row]):
            report.reject(key, NO_CREATOR if creator == 0 else NO_TIME)
            continue
        if columns["creator_row"][row] is None:
            report.aside("resumes.user_id", "no such user")
            report.reject(key, UNKNOWN_CREATOR)
            continue
        video = cleaning.text(columns["video"][row]).strip()
        description = cleaning.text(columns["description"][row], "resumes.description", report)
        if broken := rules.broken_by(video, (description,), "resumes", report):
            report.reject(key, broken)
            continue
        last = item_id
        lists = [cleaning.text_list(columns[name][row], f"resumes.{name}", report) for name in _LISTS]
        name = cleaning.text(columns["creator_name"][row]).strip()
        name_slug = cleaning.slug(name)
        items.ids.append(item_id)
        items.creator_ids.append(creator)
        items.created.append(float(created[row]))
        items.cities.append(_city(columns, row, rules))
        items.tokens.append(cut_tokens(lists, rules.cuts))
        items.bodies.append(
            _encode(
                ResumeItem(
                    id=item_id,
                    name=name,
                    slug=f"{name_slug}-{item_id}" if name_slug else str(item_id),
                    description=description,
                    video=video,
                    image=rules.image(columns["image"][row], video),
                    user_id=creator,
                    user_name=name,
                    user_slug=name_slug,
                    avatar=rules.avatar(creator),
                    role_objectives=cleaning.text_list(
                        columns["role_objectives"][row], "resumes.role_objectives", report
                    ),
                )
            )
        )
    return items


def eligible_challenges(table: Table, rules: Eligibility, now: float, since: float, report: BuildReport) -> Items:
    """Challenges that may be shown, from the rows of ``challenges.sql``; of several with one video address
    the newest. ``since``: created or updated later than this, in seconds since 1970."""
    ids = cleaning.ids(table["id"], "challenges.id", report, LARGEST_ITEM)
    creators = cleaning.ids(table["creator_id"], "challenges.user_id", report)
    created = cleaning.epoch_seconds(table["created_at"], "challenges.created_at", now, report, zone=table.zone)
    updated = cleaning.epoch_seconds(
        table["updated_at"], "challenges.updated_at", now, report, required=False, zone=table.zone
    )
    status = cleaning.epoch_seconds(
        table["status_at"], "challenges.status_at", now, report, required=False, zone=table.zone
    )
    columns = table.columns
    newest: dict[str, int] = {}
    for row in range(len(ids)):
        key = pack(CHALLENGE, int(ids[row]))  # of what has no id it is 0's, whom nobody asks for
        if columns["creator_row"][row] is None:
            report.aside("challenges.user_id", "no such user")
            report.reject(key, UNKNOWN_CREATOR)
            continue
        known = [time for time in (created[row], updated[row]) if not math.isnan(time)]
        if creators[row] == 0 or not known or max(known) < since:
            report.reject(key, NO_CREATOR if creators[row] == 0 else TOO_OLD if known else NO_TIME)
            continue
        if ids[row] == 0:
            continue
        video = cleaning.text(columns["video"][row]).strip()
        texts = [cleaning.text(columns[name][row], f"challenges.{name}", report) for name in ("description", "name")]
        if broken := rules.broken_by(video, texts, "challenges", report):
            report.reject(key, broken)
            continue
        held = newest.get(video)
        if held is not None:
            report.aside("challenges.video", "an older one with the same address")
        if held is None or _newness(created, ids, row) > _newness(created, ids, held):
            newest[video] = row
        if held is not None:
            loser = held if newest[video] == row else row
            report.reject(pack(CHALLENGE, int(ids[loser])), SUPERSEDED)

    items = Items()
    for row in sorted(newest.values(), key=ids.__getitem__):
        item_id, creator = int(ids[row]), int(creators[row])
        video = cleaning.text(columns["video"][row]).strip()
        title = cleaning.text(columns["name"][row]).strip()
        user_name = cleaning.text(columns["creator_name"][row]).strip()
        title_slug = cleaning.slug(title)
        # Age counts from creation, and from the update where the creation is unknown.
        born = created[row] if not math.isnan(created[row]) else updated[row]
        items.ids.append(item_id)
        items.creator_ids.append(creator)
        items.created.append(float(born))
        items.cities.append(_city(columns, row, rules))
        items.tokens.append(([], [], [], []))
        items.bodies.append(
            _encode(
                ChallengeItem(
                    id=item_id,
                    name=title,
                    slug=cleaning.text(columns["slug"][row]).strip()
                    or (f"{title_slug}-{item_id}" if title_slug else str(item_id)),
                    description=cleaning.text(columns["description"][row]),
                    video_url=video,
                    image=rules.image(columns["image"][row], video),
                    user_id=creator,
                    user_name=user_name,
                    user_slug=cleaning.slug(user_name),
                    user_avatar=rules.avatar(creator),
                    talent_type=cleaning.text(columns["talent_type"][row]).strip() or "innovators",
                    interest_areas=cleaning.text_list(
                        columns["interest_areas"][row], "challenges.interest_areas", report
                    ),
                    type_objectives=cleaning.text_list(
                        columns["type_objectives"][row], "challenges.type_objectives", report
                    )
                    or ["hire"],
                    created_at=rules.time(created[row]),
                    updated_at=rules.time(updated[row]),
                    status_at=rules.time(status[row]) or msgspec.UNSET,
                )
            )
        )
    return items


def cut_tokens(
    lists: Sequence[list[str]], cuts: tuple[int, int, int, int]
) -> tuple[list[str], list[str], list[str], list[str]]:
    """Skills, knowledges, tools and languages, each cut to what counts."""
    skills, knowledges, tools, languages = (
        cleaning.tokens(entries, most) for entries, most in zip(lists, cuts, strict=True)
    )
    return skills, knowledges, tools, languages


def _city(columns: dict[str, list[Any]], row: int, rules: Eligibility) -> str:
    return rules.cities.canonical(cleaning.text(columns["city"][row]), cleaning.text(columns["country"][row]))


def _newness(created: Any, ids: Any, row: int) -> tuple[float, int]:
    return (-math.inf if math.isnan(created[row]) else float(created[row])), int(ids[row])
