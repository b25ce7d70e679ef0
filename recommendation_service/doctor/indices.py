"""Phase 1's indices, of whichever operator, and how the tables stand to them."""

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
