"""The first operator is one mapping among others: its names leave the package's code, and none comes back.

Only `mappings/` and `demo/` are to have them. What still does is listed here, and the list only becomes shorter: a file
that has none any more is to be struck off.
"""

from __future__ import annotations

import re
from pathlib import Path

import recommendation_service

PACKAGE = Path(next(iter(recommendation_service.__path__)))
THEIR_OWN = ("mappings", "demo")
NAMES = re.compile(  # a transport's resume_reading is asyncio's
    r"(?<![a-z])(?:resumes?(?!_reading)|challenges?|main_objective|type_objectives?|role_objectives|talent_type|"
    r"interest_areas|type_audiences?|interacpedia|user_slug|team_feedbacks|resumes_exhibited|activity_log|SELF_ID|N_VIDEOS)(?![a-z])",
    re.IGNORECASE,
)
STILL = """
flush/event_writer.py
flush/flusher_status.py flush/rows.py flush/tables.py
""".split()  # noqa: SIM905 - a list of so many lines would be as long as the test


def test_no_file_beside_those_that_are_known_has_a_name_of_the_first_operators() -> None:
    found = set()
    for path in PACKAGE.rglob("*"):
        place = path.relative_to(PACKAGE)
        if path.suffix not in {".py", ".sql", ".toml"} or place.parts[0] in THEIR_OWN:
            continue
        if NAMES.search(path.read_text("utf-8")):
            found.add(str(place))

    assert sorted(found - set(STILL)) == [], "say it in the words of a mapping"
    assert sorted(set(STILL) - found) == [], "strike these off: they have none of its names any more"
