"""The operator's tables, for MariaDB, MySQL and SQLite.

Only the columns that the service reads or writes, and no index beyond primary keys: the demo must be as slow
without phase 1's indices as the real database is.

On SQLite, times are text 'YYYY-MM-DD HH:MM:SS' (they sort and compare as the operator's TIMESTAMPs do, and a
zero date can be stored); on MariaDB and MySQL, everything is as in the operator's own DDL.
"""

from typing import Any

from sqlalchemy import BigInteger, Column, Integer, MetaData, Numeric, String, Table, Text, text
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

MYSQL_FAMILY = ("mysql", "mariadb")

RESUME_MODEL = r"App\Interacpedia\Resumes\Resume"
CHALLENGE_MODEL = r"App\Interacpedia\Challenges\Challenge"
USER_MODEL = r"App\User"

metadata = MetaData()

_ID: TypeEngine[Any] = (
    BigInteger().with_variant(mysql.BIGINT(unsigned=True), *MYSQL_FAMILY).with_variant(Integer(), "sqlite")
)
_COUNT: TypeEngine[Any] = Integer().with_variant(mysql.INTEGER(unsigned=True), *MYSQL_FAMILY)
_TIME: TypeEngine[Any] = Text().with_variant(mysql.TIMESTAMP(), *MYSQL_FAMILY)
_LONG_TEXT: TypeEngine[Any] = Text().with_variant(mysql.LONGTEXT(), *MYSQL_FAMILY)
# Read back as float: SQLite has no decimals, and SQLAlchemy warns where one is promised.
_RATING: TypeEngine[Any] = Numeric(8, 2, asdecimal=False)


def _times(*names: str) -> list[Column[Any]]:
    return [Column(name, _TIME, nullable=True) for name in names]


def _long_texts(*names: str) -> list[Column[Any]]:
    return [Column(name, _LONG_TEXT) for name in names]


def _reference(name: str, *, nullable: bool = False) -> Column[Any]:
    """An id of another table's row; the operator has no foreign keys, hence orphaned rows."""
    return Column(name, _ID, nullable=nullable)


def _table(name: str, *columns: Column[Any]) -> Table:
    return Table(
        name,
        metadata,
        Column("id", _ID, primary_key=True, autoincrement=True),
        *columns,
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mariadb_engine="InnoDB",
        mariadb_charset="utf8mb4",
        sqlite_autoincrement=True,
    )


users = _table(
    "users",
    *(Column(name, String(255)) for name in ("name", "email", "city", "country")),
    *_times("created_at", "updated_at", "deleted_at"),
)
profiles = _table(
    "profiles",
    _reference("user_id"),
    *_long_texts("skills", "languages", "tools", "knowledge", "hobbies", "type_talentees"),
    *_long_texts("opencall_objective"),
)
resumes = _table(
    "resumes",
    _reference("user_id"),
    Column("video", Text),
    Column("image", Text),
    Column("views", _COUNT, server_default=text("0")),
    *_long_texts("skills", "knowledges", "tools", "languages", "role_objectives"),
    Column("description", Text),
    Column("status", String(32)),
    *_times("created_at", "updated_at", "deleted_at"),
)
challenges = _table(
    "challenges",
    _reference("user_id"),
    Column("name", String(255)),
    Column("slug", String(255)),
    Column("description", Text),
    Column("video", Text),
    Column("image", Text),
    Column("talent_type", String(64)),
    *_long_texts("interest_areas", "type_objectives"),
    Column("status", String(32)),
    *_times("status_at", "created_at", "updated_at", "deleted_at"),
)
team_feedbacks = _table(
    "team_feedbacks",
    _reference("user_id", nullable=True),
    _reference("model_id"),
    Column("type", String(64)),
    Column("value", _RATING),
    *_times("created_at"),
)
matches = _table(
    "matches",
    _reference("user_id", nullable=True),
    _reference("model_id"),
    Column("status", String(32)),
    *_times("created_at"),
)
likes = _table(
    "likes",
    _reference("user_id", nullable=True),
    _reference("model_id"),
    Column("type", String(32)),
    *_times("created_at"),
)
resumes_exhibited = _table("resumes_exhibited", _reference("resume_id"), *_times("created_at"))
views = _table(
    "views",
    _reference("user_id", nullable=True),
    _reference("model_id"),
    Column("model_type", String(255)),
    *_times("created_at"),
)
user_connections = _table(
    "user_connections",
    _reference("from_id"),
    _reference("to_id"),
    Column("status", String(32)),
    *_times("created_at"),
)
activity_log = _table(
    "activity_log",
    Column("log_name", String(255)),
    Column("description", Text),
    _reference("subject_id", nullable=True),
    Column("subject_type", String(255)),
    _reference("causer_id", nullable=True),
    Column("causer_type", String(255)),
    *_long_texts("properties"),
    Column("url", String(255)),
    *_times("created_at", "updated_at"),
)
