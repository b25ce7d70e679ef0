"""Phase 1's indices: the one list of them, and how the operator's tables stand to it.

`migrations/phase1_*.sql` repeat the list, since the plain client can read nothing else; a test proves that they have
exactly these, in this order, with these reasons.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

# Marks an index as made by phase 1, so that the rollback takes none that the operator had.
MARK = "recommendation-service phase 1"


@dataclass(frozen=True, slots=True)
class Index:
    """An index, the source queries it serves (names of their files), and why they need it."""

    name: str
    table: str
    columns: tuple[str, ...]
    queries: tuple[str, ...]
    reason: str

    def ddl(self, engine: str = "InnoDB") -> str:
        """The statement of phase1_create_indexes.sql; only InnoDB can make an index beside readers and writers."""
        online = " ALGORITHM=INPLACE LOCK=NONE" if engine == "InnoDB" else ""
        return f"CREATE INDEX {self.name} ON {self.table} ({', '.join(self.columns)}) COMMENT '{MARK}'{online};"


# A column that could be a foreign key leads an index only where it is the whole of it: a longer index that begins
# with it would make the server drop the one that it made for the key by itself. An operator's own serves then.
PHASE_1 = (
    Index(
        "recs_users_created",
        "users",
        ("created_at",),
        ("users",),
        "recent users are 4 % of all; with both dates indexed the two are merged instead of reading every user",
    ),
    Index(
        "recs_users_updated",
        "users",
        ("updated_at",),
        ("users", "changes"),
        "the other half of that merge; and the latest update is the index's last entry",
    ),
    Index(
        "recs_users_deleted",
        "users",
        ("deleted_at",),
        ("changes",),
        "the latest deletion is the index's last entry; asked every CATALOG_REFRESH_SECONDS, else of every user",
    ),
    Index(
        "recs_profiles_user",
        "profiles",
        ("user_id",),
        ("users", "changes", "user_profile"),
        "without it every recent user is compared with every profile, which is what makes phase 1 urgent",
    ),
    Index(
        "recs_resumes_status_created",
        "resumes",
        ("status", "created_at"),
        ("videos", "changes"),
        "sent résumés of the window are one range, whatever else has piled up; and they are counted in the index",
    ),
    Index(
        "recs_ratings_created",
        "team_feedbacks",
        ("type", "created_at", "user_id", "model_id", "value"),
        ("interactions_ratings",),
        "ratings of the window are one range, read from the index alone",
    ),
    Index(
        "recs_ratings_model",
        "team_feedbacks",
        ("type", "model_id", "value"),
        ("engagement_ratings", "changes"),
        "counted and averaged from the index alone, in its order: no temporary table and no sorting",
    ),
    Index(
        "recs_ratings_user",
        "team_feedbacks",
        ("user_id",),
        ("user_interactions",),
        "one user's ratings are looked up, while a feed waits, instead of found among all of the window",
    ),
    Index(
        "recs_matches_created",
        "matches",
        ("status", "created_at", "user_id", "model_id"),
        ("interactions_matches",),
        "accepted matches of the window are one range, read from the index alone",
    ),
    Index(
        "recs_matches_model",
        "matches",
        ("status", "model_id"),
        ("engagement_matches", "changes"),
        "counted from the index alone, in its order",
    ),
    Index(
        "recs_matches_user",
        "matches",
        ("user_id",),
        ("user_interactions",),
        "the same for one user's matches",
    ),
    Index(
        "recs_likes_created",
        "likes",
        ("type", "created_at", "user_id", "model_id"),
        ("interactions_saves",),
        "saves of the window are one range, read from the index alone",
    ),
    Index(
        "recs_likes_model",
        "likes",
        ("type", "model_id"),
        ("engagement_saves", "changes"),
        "counted from the index alone, in its order",
    ),
    Index(
        "recs_likes_user",
        "likes",
        ("user_id",),
        ("user_interactions",),
        "the same for one user's saves",
    ),
    Index(
        "recs_connections_created",
        "user_connections",
        ("status", "created_at", "from_id", "to_id"),
        ("connections", "changes"),
        "accepted connections of the window are one range, read from the index alone",
    ),
    Index(
        "recs_connections_from",
        "user_connections",
        ("from_id",),
        ("user_connections",),
        "one user's connections are looked up, in either direction",
    ),
    Index(
        "recs_connections_to",
        "user_connections",
        ("to_id",),
        ("user_connections",),
        "the other direction",
    ),
    Index(
        "recs_views_model",
        "views",
        ("model_type", "model_id"),
        ("engagement_views",),
        "all views of résumés are counted from the index alone, in its order",
    ),
    Index(
        "recs_exhibited_resume",
        "resumes_exhibited",
        ("resume_id",),
        ("engagement_exhibitions",),
        "all exhibitions are counted from the index alone, in its order",
    ),
    Index(
        "recs_activity_created",
        "activity_log",
        ("created_at",),
        ("interactions_views",),
        "the window is one range of the index alone, and only its rows are then read; the log is the largest table",
    ),
    Index(
        "recs_activity_causer",
        "activity_log",
        ("causer_id", "created_at"),
        ("user_interactions",),
        "one user's latest views, while a feed waits: without it all of the window is read for each user",
    ),
)


class State(StrEnum):
    """How an index stands; the words are those of phase1_validate.sql."""

    PRESENT = "present"
    SERVED = "served by yours"
    OTHER_COLUMNS = "other columns"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class FoundIndex:
    """An index of the server. ``columns`` has `name(length)` for a prefix, which serves nothing here."""

    table: str
    name: str
    columns: tuple[str, ...]
    comment: str = ""
    is_plain: bool = True  # a B-tree
    is_unique: bool = False
    is_used: bool = True  # neither invisible (MySQL 8) nor ignored (MariaDB 10.6)


@dataclass(frozen=True, slots=True)
class Standing:
    """An index of phase 1, and what the server has for it: ``by`` is the index that serves or is in the way."""

    index: Index
    state: State
    by: FoundIndex | None = None


def standing(index: Index, found: Iterable[FoundIndex]) -> Standing:
    """The rules of phase1_create_indexes.sql: ours is known by name, columns and mark; else one that begins
    with the same columns serves."""
    there = [other for other in found if other.table == index.table]
    same_name = next((other for other in there if other.name == index.name), None)
    if same_name is not None and _is_ours(index, same_name):
        return Standing(index, State.PRESENT, same_name)
    serving = sorted((other for other in there if _serves(index, other)), key=lambda other: other.name)
    if serving:
        return Standing(index, State.SERVED, serving[0])
    if same_name is not None:
        return Standing(index, State.OTHER_COLUMNS, same_name)
    return Standing(index, State.ABSENT)


def _is_ours(index: Index, other: FoundIndex) -> bool:
    return other.columns == index.columns and other.comment == MARK and other.is_plain and not other.is_unique


def _serves(index: Index, other: FoundIndex) -> bool:
    return other.columns[: len(index.columns)] == index.columns and other.is_plain and other.is_used


def read_indices(rows: Sequence[Mapping[str, object]]) -> list[FoundIndex]:
    """Of `information_schema.statistics`, lower-case keys, in the order of seq_in_index."""
    grouped: dict[tuple[str, str], list[Mapping[str, object]]] = {}
    for row in rows:
        grouped.setdefault((str(row["table_name"]), str(row["index_name"])), []).append(row)
    return [
        FoundIndex(
            table=table,
            name=name,
            columns=tuple(_column(part) for part in parts),
            comment=str(parts[0]["index_comment"] or ""),
            is_plain=parts[0]["index_type"] == "BTREE",
            is_unique=not int(str(parts[0]["non_unique"])),
            is_used=parts[0].get("is_visible", "YES") == "YES" and parts[0].get("ignored", "NO") == "NO",
        )
        for (table, name), parts in grouped.items()
    ]


def _column(part: Mapping[str, object]) -> str:
    if part["column_name"] is None:  # MySQL 8 indexes expressions
        return "(expression)"
    name = str(part["column_name"]).lower()
    return name if part["sub_part"] is None else f"{name}({part['sub_part']})"
