"""How the tables stand to items that a build left out: what might be shown at any age, and what is there at all."""

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from recommendation_service.catalog import cleaning
from recommendation_service.catalog.coded_source import Standing
from recommendation_service.catalog.report import BuildReport
from recommendation_service.core.config import Settings
from recommendation_service.mappings.interacpedia.builder import eligibility
from recommendation_service.mappings.interacpedia.items import eligible_challenges, eligible_videos
from recommendation_service.mappings.interacpedia.words import CHALLENGE, RESUME
from recommendation_service.policies.policy import Policy
from recommendation_service.sources.reader import ZERO_DATE

if TYPE_CHECKING:
    from recommendation_service.mappings.interacpedia.source import Source

WORDS = {RESUME: "videos", CHALLENGE: "challenges"}
NOTHING = (
    "the tables have no video and no challenge that is published, whole, and within VIDEOS_WINDOW_DAYS or "
    "CHALLENGES_WINDOW_DAYS"
)
_GONE = "are no longer in the tables, or their creators are not"
_ADDRESS = {RESUME: "video", CHALLENGE: "video_url"}
# Dates of rows are seen from so far ahead: one that seems to be in the future is no reason to withdraw an item.
_LATER = timedelta(days=36500)


def standing_of(source: "Source", settings: Settings, policy: Policy, now: datetime) -> Standing:
    """Raises SourceError."""
    report, seconds = BuildReport(), (now + _LATER).timestamp()
    rules = eligibility(settings, policy, BuildReport())
    with source.snapshot(now + _LATER) as snapshot:
        snapshot.parameters |= {"videos_since": ZERO_DATE, "challenges_since": ZERO_DATE}
        videos, challenges = snapshot.read("videos"), snapshot.read("challenges")
        presence = snapshot.read("presence")
    ids = cleaning.ids(presence["id"], "presence.id", report)
    is_challenge = np.array(presence["is_challenge"], np.int64) != 0
    return Standing(
        {
            RESUME: np.array(eligible_videos(videos, rules, seconds, report).ids, np.int64),
            CHALLENGE: np.array(eligible_challenges(challenges, rules, seconds, 0.0, report).ids, np.int64),
        },
        {RESUME: ids[~is_challenge], CHALLENGE: ids[is_challenge]},
        lambda item_type, body: str(json.loads(body)[_ADDRESS[item_type]]) in rules.blacklist,
        {number: (f"are not within {word.upper()}_WINDOW_DAYS by the clock", _GONE) for number, word in WORDS.items()},
    )
