"""The first operator is one mapping among others: its names leave the package's code, and none comes back.

Only `mappings/` and `demo/` have them.
"""

from __future__ import annotations

import re
from pathlib import Path

import recommendation_service

PACKAGE = Path(next(iter(recommendation_service.__path__)))
THEIR_OWN = ("mappings", "demo")
NAMES = re.compile(  # a transport's resume_reading is asyncio's
    r"(?<![a-z])(?:resumes?(?!_reading)|challenges?|main_objective|type_objectives?|role_objectives|talent_type|"
    r"interest_areas|type_audiences?|interacpedia|user_slug|team_feedbacks|resumes_exhibited|activity_log|SELF_ID|"
    r"N_VIDEOS)(?![a-z])",
    re.IGNORECASE,
)


def test_no_file_beside_those_has_a_name_of_the_first_operators() -> None:
    found = [
        str(place)
        for path in PACKAGE.rglob("*")
        if path.suffix in {".py", ".sql", ".toml"} and (place := path.relative_to(PACKAGE)).parts[0] not in THEIR_OWN
        if NAMES.search(path.read_text("utf-8"))
    ]
    assert sorted(found) == [], "say it in the words of a mapping, or in mappings/interacpedia/"
