"""The dirt of the demo: how much of each kind, and what it looks like.

The amounts are constants, whatever the scale, so that a test (or a metric that counts what was set aside) can
be held against them.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from recommendation_service.demo.draws import Integers

ZERO_DATE = "0000-00-00 00:00:00"

# What a spoiled JSON list looks like. A reader makes nothing of it; of a mixed list it may keep the words.
SPOILED_LISTS: dict[str, str | None] = {
    "invalid_json": '["Fotograf\\u00eda", "Edici',
    "string": '"Python"',
    "mixed_list": '["Guitarra", null, 7, "Canto", {"nivel": 3}]',
    "null": None,
    "empty": "",
}
SPOILED_TEXTS: dict[str, str | None] = {"null": None, "empty": ""}


@dataclass(frozen=True, slots=True)
class Dirt:
    """How many rows of each kind, named table, column, kind. Every count is exact.

    Names, JSON columns and descriptions are those of eligible rows. Résumés and challenges whose dirt is
    their date or their creator, and dirty interactions, are rows beside the eligible ones.
    """

    users_name_emoji: int = 6
    users_name_quotes: int = 4
    users_name_script: int = 3
    users_name_null: int = 2
    users_name_empty: int = 2
    users_created_at_zero_date: int = 4
    users_created_at_future: int = 3
    users_updated_at_zero_date: int = 3

    profiles_skills_invalid_json: int = 8
    profiles_skills_string: int = 5
    profiles_skills_mixed_list: int = 5
    profiles_skills_null: int = 4
    profiles_languages_string: int = 4
    profiles_languages_null: int = 6
    profiles_tools_invalid_json: int = 4
    profiles_tools_empty: int = 6
    profiles_knowledge_mixed_list: int = 4
    profiles_user_id_orphaned: int = 5

    resumes_skills_invalid_json: int = 4
    resumes_skills_string: int = 3
    resumes_skills_mixed_list: int = 3
    resumes_skills_null: int = 2
    resumes_knowledges_string: int = 2
    resumes_knowledges_mixed_list: int = 2
    resumes_tools_invalid_json: int = 2
    resumes_tools_null: int = 3
    resumes_languages_empty: int = 3
    resumes_role_objectives_invalid_json: int = 2
    resumes_description_null: int = 3
    resumes_description_empty: int = 2
    resumes_created_at_zero_date: int = 3
    resumes_created_at_future: int = 2
    resumes_user_id_orphaned: int = 5

    challenges_interest_areas_invalid_json: int = 2
    challenges_interest_areas_mixed_list: int = 1
    challenges_type_objectives_string: int = 2
    challenges_type_objectives_null: int = 1
    challenges_description_null: int = 1
    challenges_status_at_zero_date: int = 2
    challenges_created_at_zero_date: int = 1
    challenges_created_at_future: int = 1
    challenges_user_id_orphaned: int = 2

    team_feedbacks_value_above_five: int = 25
    team_feedbacks_value_zero: int = 10
    team_feedbacks_value_negative: int = 5
    team_feedbacks_model_id_orphaned: int = 12
    team_feedbacks_user_id_null: int = 6
    team_feedbacks_user_id_orphaned: int = 7
    team_feedbacks_created_at_future: int = 5
    matches_model_id_orphaned: int = 8
    matches_created_at_zero_date: int = 4
    likes_model_id_orphaned: int = 10
    likes_user_id_null: int = 4
    likes_created_at_zero_date: int = 5
    activity_log_subject_id_orphaned: int = 15
    activity_log_subject_id_null: int = 6
    activity_log_causer_id_null: int = 8
    activity_log_created_at_zero_date: int = 5
    activity_log_created_at_future: int = 5
    views_model_id_orphaned: int = 20
    resumes_exhibited_resume_id_orphaned: int = 10
    user_connections_to_id_orphaned: int = 4
    user_connections_created_at_zero_date: int = 2

    def as_dict(self) -> dict[str, int]:
        return asdict(self)

    def of_table(self, table: str) -> dict[tuple[str, str], int]:
        """(column, kind) to amount, in the order above."""
        return {
            _column_and_kind(name.removeprefix(f"{table}_")): amount
            for name, amount in asdict(self).items()
            if name.startswith(f"{table}_")
        }


_KINDS = (*SPOILED_LISTS, "emoji", "quotes", "script", "zero_date", "future", "orphaned", "above_five")


def _column_and_kind(name: str) -> tuple[str, str]:
    kind = next((kind for kind in _KINDS if name.endswith(f"_{kind}")), name.rsplit("_", 1)[-1])
    return name.removesuffix(f"_{kind}"), kind


def spoil(
    rng: np.random.Generator, dirt: dict[tuple[str, str], int], column: str, ids: Integers
) -> Iterator[tuple[int, str]]:
    """(id, kind) of rows chosen to be spoiled in that column, no row twice."""
    kinds = [kind for (name, kind), amount in dirt.items() if name == column for _ in range(amount)]
    chosen = rng.choice(ids, size=len(kinds), replace=False)
    return zip(chosen.tolist(), kinds, strict=True)


def spoiled_name(kind: str, name: str) -> str | None:
    """A creator's name as people really type it, or as someone who looks for a hole does."""
    match kind:
        case "emoji":
            return f"{name} 🎬🇨🇴"
        case "quotes":
            return f'{name} "El Profe" O\'Higgins'
        case "script":
            return f"{name}</script><script>alert(1)</script>"
        case "null":
            return None
        case _:
            return ""
