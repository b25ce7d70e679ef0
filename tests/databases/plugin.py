"""Makes a run of pytest one on another server: loaded by name (-p), and told by the environment what to change."""

from __future__ import annotations

import os
import shlex
from typing import Any

import pytest
from sqlalchemy.types import UserDefinedType

from recommendation_service.demo.schema import metadata
from tests.servers import PrivateMariaDB

MYSQLD, OPTIONS, PROPERTIES = "TEST_MYSQLD", "TEST_SERVER_OPTIONS", "TEST_PROPERTIES"

# What a JSON column cannot hold, or gives back in another spelling.
NOT_AS_JSON = {
    "test_of_what_the_service_itself_logged_only_what_the_user_wanted_counts_as_a_view": "writes what is no JSON",
    "test_text_that_the_operators_table_cannot_hold_is_there_in_escapes": "a JSON column holds all text",
}
_GROUPS = "MySQL groups by a hash table, without a sort"
_OTHER_INDEX = "MySQL's planner reads another index of phase 1"
NOT_ON_MYSQL = {
    "test_with_indices_on_the_users_number_no_table_is_read_whole": "writes its rows in words of MariaDB",
    "test_a_user_with_select_only_can_serve_and_is_told_what_it_cannot_do": "names a privilege of MariaDB's",
    **{
        f"test_without_indices_full_scans_and_filesorts_of_big_tables_are_named[{what}]": _GROUPS
        for what in ("engagement_views-filesort of views", "engagement_exhibitions-filesort of resumes_exhibited")
    },
    **{
        f"test_with_indices_the_plans_use_them[{index}]": _OTHER_INDEX
        for index in ("recs_ratings_created", "recs_matches_created", "recs_likes_created")
    },
}
NOT_AS_JSON_OF_MYSQL = {
    "test_feedback_is_appended_to_the_activity_log_as_the_contract_says": "compares the spelling of JSON",
    "test_a_feed_is_appended_to_the_activity_log_as_the_contract_says": "compares the spelling of JSON",
    "test_texts_that_want_no_escaping_are_written_as_others_are": "compares the spelling of JSON",
}


class _Json(UserDefinedType[Any]):
    """The type's name only: what is written stays the text that it is."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "JSON"


def pytest_configure() -> None:
    PrivateMariaDB.mysqld = os.environ.get(MYSQLD) or None
    PrivateMariaDB.more_options = tuple(shlex.split(os.environ.get(OPTIONS, "")))
    if os.environ.get(PROPERTIES) == "json":
        metadata.tables["activity_log"].c.properties.type = _Json()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons: dict[str, str] = dict(NOT_ON_MYSQL) if PrivateMariaDB.mysqld else {}
    if os.environ.get(PROPERTIES) == "json":
        reasons |= NOT_AS_JSON
        if PrivateMariaDB.mysqld:
            reasons |= NOT_AS_JSON_OF_MYSQL
    for item in items:
        for name in {item.name, item.name.split("[")[0]} & reasons.keys():
            item.add_marker(pytest.mark.skip(reason=reasons[name]))
