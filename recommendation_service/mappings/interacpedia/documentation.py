"""What the page of the interface says of the contract's feeds."""

from typing import Any

from recommendation_service.api.schemas import DEFAULT_ITEMS
from recommendation_service.mappings.interacpedia.items import ChallengeItem, ResumeItem

DESCRIPTION = "Personal, diverse feeds of talent videos (résumés) and challenges."
SUMMARIES = {
    "total": "Résumé videos and challenges mixed",
    "discover": "Résumé videos only",
    "flow": "Challenges only",
}
FEED_ITEM_SCHEMAS = {
    "total": ("ResumeItem", "ChallengeItem"),
    "discover": ("ResumeItem",),
    "flow": ("ChallengeItem",),
}
ITEMS = (ResumeItem, ChallengeItem)
NOT_ALWAYS = frozenset({"status_at"})  # fields of items that are there only where they are known
FEED_EXAMPLE: dict[str, Any] = {
    "SELF_ID": 4711,
    "N_VIDEOS": DEFAULT_ITEMS,
    "EXCLUDED_IDS": [812],
    "explain": True,
}
SIZE_FIELD = "N_VIDEOS"
