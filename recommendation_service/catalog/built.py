"""A catalog in memory: what a build hands to the store."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from recommendation_service.catalog.filter_columns import FilterColumn
from recommendation_service.catalog.report import BuildReport
from recommendation_service.catalog.texts import Texts
from recommendation_service.model.columns import CatalogArrays, Int64


@dataclass
class BuiltCatalog:
    """A catalog in memory, ready to be written."""

    arrays: CatalogArrays
    item_types: dict[str, int]  # numbers by name, in the order of their rows
    item_bodies: list[bytes]
    names: dict[str, Any]  # tokens and cities by number, for people who look into a catalog
    report: BuildReport
    built_at: datetime
    policy_version: str
    policy_digest: str
    added_features: list[str]  # Policy.added_features of the policy that it was built with
    item_time_zone: str  # of the times in ``item_bodies``: Z, which they bear, or one that they do not bear
    not_personal: Int64 | None  # users whose feeds are not, ascending; None: no table names them, or it was never read
    item_texts: Texts | None = None  # ids of the items, where they are text
    user_texts: Texts | None = None  # ids of the users
    creator_texts: Texts | None = None  # ids of the creators
    text_types: tuple[str, ...] = ()  # names of the types whose items have ids that are text
    filters: tuple[FilterColumn, ...] = ()
    people_terms: dict[str, Any] | None = None  # by what the terms of a mapping's people are made, see mapped.py
    mapping: str | None = None  # Mapping.digest of the mapping by which it was built
