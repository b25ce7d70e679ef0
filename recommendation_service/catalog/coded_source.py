"""What a catalog asks of an operator whose tables are read by code of its own, a folder of mappings/."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple, Protocol

from sqlalchemy.engine import Engine

from recommendation_service.catalog.built import BuiltCatalog
from recommendation_service.catalog.kept_lists import KeptLists
from recommendation_service.core.config import Settings
from recommendation_service.model.columns import Int64
from recommendation_service.policies.policy import Policy


class Standing(NamedTuple):
    """How the tables stand to items that a build left out; numbers by the items' type."""

    eligible: Mapping[int, Int64]  # that might be shown at any age
    present: Mapping[int, Int64]  # that are there with their creator, whether they may be shown or not
    is_withdrawn: Callable[[int, bytes], bool]  # by a list beside the tables: an item of this type with this JSON
    reasons: Mapping[int, tuple[str, str]]  # what is said of items that are gone by the clock, and that are not present


class CodedSource(Protocol):
    """The first is an operator's own schema, with rules that no mapping says."""

    words: Mapping[int, str]  # what people call items, by the number of their type; WORD_WINDOW_DAYS is a setting
    nothing: str  # said of tables of which a build has no item
    engine: Engine

    def fingerprint(self, now: datetime | None = None) -> str:
        """Differs whenever something changed that a catalog is made of. Raises SourceError."""

    def build(self, settings: Settings, policy: Policy, now: datetime, kept: KeptLists | None) -> BuiltCatalog:
        """Raises SourceError."""

    def standing(self, settings: Settings, policy: Policy, now: datetime) -> Standing:
        """Raises SourceError."""

    @property
    def read_tables(self) -> tuple[str, ...]:
        """Names of the tables that are read."""
