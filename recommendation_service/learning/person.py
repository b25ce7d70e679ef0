"""What the learner keeps of one person: the feeds that may still bring rewards, and how much of the sums is theirs."""

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import quote

import structlog

from recommendation_service.core.config import Settings
from recommendation_service.core.errors import ConfigurationError
from recommendation_service.learning.arms import person_of
from recommendation_service.learning.format import LearningFile, load_learning
from recommendation_service.learning.ledger import FILE
from recommendation_service.learning.weighed import number_of

log = structlog.get_logger(__name__)

_QUERIES = {
    "pending_feeds": "SELECT COUNT(*) FROM feeds WHERE user = :user AND (:user > 0 OR session = :session)",
    "pending_events": """SELECT COUNT(*) FROM happenings WHERE request IN
  (SELECT request FROM feeds WHERE user = :user AND (:user > 0 OR session = :session))""",
    "unmatched_events": "SELECT COUNT(*) FROM unmatched WHERE user = :user AND (:user > 0 OR session = :session)",
    "weighed_feeds": "SELECT COUNT(DISTINCT request) FROM weighed WHERE person = :number",
    "learned_slots": "SELECT COALESCE(SUM(weight), 0.0) FROM persons WHERE user = :user AND session = :part",
    "learned_reward": "SELECT COALESCE(SUM(reward), 0.0) FROM person_rewards WHERE user = :user AND session = :part",
    "experiment_feeds": "SELECT COALESCE(SUM(feeds), 0) FROM arm_people WHERE person = :person",
}
# Which a file of a release before lacks.
_LATER = {
    "weighed_feeds": "weighed.person",
    "learned_slots": "persons.weight",
    "learned_reward": "person_rewards.reward",
    "experiment_feeds": "arm_people.feeds",
}


def pending_of(folder: Path, user_id: int, session_id: str | None) -> dict[str, float]:
    """By what it is; nothing where nothing is learned here. Raises OSError where the file cannot be read."""
    path = folder / FILE
    if not path.exists():
        return {}
    parameters = {
        "user": user_id,
        "session": session_id,
        "part": "" if user_id else session_id,
        "person": person_of(user_id, session_id),
        "number": number_of(user_id, session_id),
    }
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5)) as database:
            columns = {
                f"{table}.{row[1]}"
                for table in ("persons", "person_rewards", "arm_people", "weighed")
                for row in database.execute(f"PRAGMA table_info({table})")
            }
            return {
                name: database.execute(query, parameters).fetchone()[0]
                for name, query in _QUERIES.items()
                if name not in _LATER or _LATER[name] in columns
            }
    except sqlite3.Error as error:
        raise OSError(5, str(error), str(path)) from error


def part_that_stays(settings: Settings, learning: LearningFile | None) -> float | None:
    """The most shown items of one person that what was learned here is of; None: nothing was.

    ``learning``: None where the learner is off. What it learned before, or `recs learn` does, stays, and may be
    served.
    """
    if learning is None:
        if not (settings.learning_dir / FILE).exists():
            return None
        try:
            learning = load_learning(settings.learning_file)
        except ConfigurationError as error:  # by which nothing can have been learned; and no reason not to forget
            log.warning(
                "LEARNING_FILE cannot be used; what is learned is taken from the one that ships", error=str(error)
            )
            learning = load_learning()
    return learning.person_slots
