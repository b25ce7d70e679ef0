"""The service's own ranking in a replay, through its own parts: the operator's tables, the SQL that reads them, the
catalog's builder, and the pipeline that answers requests. Nothing of the ranking is repeated here.

- At each refit a catalog is built and published from what was told until then, and opened as a worker opens it.
- What a user did since is what the service would know at a request: of a user who is not in the catalog, the reader of
  users reads the tables; of each, the memory holds what was acted on. What the user had stands among the request's
  exclusions as well, since lifetimes and windows end and the protocol's questions do not.
"""

import sqlite3
import weakref
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import SecretStr
from sqlalchemy import NullPool, create_engine, event

from recommendation_service.catalog.builder import build_catalog
from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.evaluation.interaction_log import Int64, InteractionLog
from recommendation_service.evaluation.protocol import LIST_LENGTH, Past, Question
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.feed.request import FeedRequest
from recommendation_service.mappings.opening import open_coded_source, user_reader
from recommendation_service.mappings.replayed import ITEM_TYPE, OperatorTables, item_number, user_number
from recommendation_service.memory.from_records import Entry, entries_of_event
from recommendation_service.memory.user_memory import lifetimes_of
from recommendation_service.policies.policy import Policy
from recommendation_service.ranking.seen import ACTED
from recommendation_service.ranking.working_memory import SEEN_CAPACITY

NO_LIMIT = 2**31 - 1
COLD = 1e-9  # a temperature at which the best always comes first


def ranking_alone(policy: Policy) -> Policy:
    """The policy with all slots of the kind that is closest to the user, the best first: without exploration, draws,
    the rule of new skills and the creators' window. What was learned stays; how sure of it one is no longer counts."""
    file = policy.file
    close = file.kind("AU").model_copy(update={"alpha": 0.0, "temperature": COLD})
    alone = file.model_copy(
        update={
            "feeds": file.feeds | {"total": ["AU"], "discover": ["AU"]},
            "kinds": file.kinds | {"AU": close},
            "limits": file.limits.model_copy(update={"creator_window": 1, "novelty_after_skills": NO_LIMIT}),
            "exploration": file.exploration.model_copy(update={"floor": 0.0}),
        }
    )
    return Policy(alone, policy.arrays.theta, version=f"{policy.version}, ranking alone")


class ReplayedOperator:
    """An operator's database and catalogs in ``folder``, as far as the replay has come; for all policies at once."""

    def __init__(self, log: InteractionLog, settings: Settings, policy: Policy, folder: Path) -> None:
        """``policy``: what catalogs are built with."""
        path = folder / "operator.sqlite"
        self.settings = settings.model_copy(
            update={
                "mysql_host": None,
                "database_url": SecretStr(f"sqlite:///{path}"),
                "mapping_file": None,
                "data_dir": folder,
                "blacklist_file": None,
                "blacklist_required": False,
                "test_row_words": (),  # words in titles of a log say nothing
            }
        )
        self._writing = create_engine(f"sqlite:///{path}", poolclass=NullPool)
        event.listen(self._writing, "connect", _hurry)
        self.tables = OperatorTables(self._writing, log)
        self._reading = make_engine(self.settings)
        weakref.finalize(self, self._reading.dispose)
        self._source = open_coded_source(self.settings, self._reading)
        self._store = CatalogStore(folder / "catalogs", keep=1)
        self._policy = policy
        self._catalog: Catalog | None = None
        self._moment = -1
        self.now = 0
        self.users = user_reader(self.settings, self._reading.connect, lambda: float(self.now))

    def catalog_at(self, moment: int) -> Catalog:
        """Of all that was told before ``moment``; made once for all who ask."""
        if self._catalog is None or moment != self._moment:
            self.tables.tell_until(moment)
            now = datetime.fromtimestamp(moment, UTC)
            built = build_catalog(self._source, self.settings, self._policy, now)
            self._catalog, self._moment = self._store.open(self._store.publish(built)), moment
        return self._catalog


def _hurry(connection: sqlite3.Connection, _record: object) -> None:
    """Tables that are gone after the replay need not outlive a power failure."""
    connection.execute("PRAGMA synchronous = OFF")


class ServiceReplay:
    """The service under one policy."""

    def __init__(self, name: str, operator: ReplayedOperator, policy: Policy, endpoint: str = "total") -> None:
        self.name = name
        self._operator, self._policy, self._endpoint = operator, policy, endpoint
        self._entries: dict[int, list[Entry]] = {}

    def fit(self, past: Past) -> None:
        settings = self._operator.settings
        catalog = self._operator.catalog_at(past.moment)
        self._pipeline = FeedPipeline(
            Generation(catalog, self._policy), settings.feed_seed, lifetimes=lifetimes_of(settings)
        )

    def rank(self, question: Question) -> Int64:
        number, operator = user_number(question.user), self._operator
        request = FeedRequest(
            self._endpoint,
            number,
            LIST_LENGTH,
            f"{question.user}-{question.when}",
            np.array([item_number(item) for item in question.history.tolist()], np.int64),
            now=question.when,
        )
        if self._pipeline.user_row(number) < 0:
            operator.tables.tell_of_user(question.user, question.when)
            operator.now = question.when
            facts = operator.users.read(number)
            if facts is not None:
                request = request.but(outsider=self._pipeline.outsider(*facts))
        slate = self._pipeline.rank(request, self._remembered(question))
        return np.array(slate.numbers, np.int64) - 1

    def _remembered(self, question: Question) -> bytes:
        """What the user acted on, as the memory of users has it."""
        entries = self._entries.setdefault(question.user, [])
        for item, when in zip(
            question.history[len(entries) :].tolist(), question.history_when[len(entries) :].tolist(), strict=True
        ):
            entries += entries_of_event(ACTED, ITEM_TYPE, item_number(item), 0, None, when)
        return np.array(entries[-SEEN_CAPACITY:], np.int64).tobytes()
