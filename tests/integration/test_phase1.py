"""The scripts of phase 1, run by the plain client against a real server, as a user with SELECT and INDEX only."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.engine import URL

from recommendation_service.demo.schema import metadata
from recommendation_service.doctor.indices import MARK, Index, State, read_indices, standing
from recommendation_service.mappings.interacpedia.schema import PHASE_1, queries
from tests.servers import PrivateMariaDB, find_program

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
CREATE, ROLLBACK = "phase1_create_indexes", "phase1_rollback"
VALIDATE, ANALYZE = "phase1_validate", "phase1_analyze_performance"
SCRIPTS = (CREATE, ROLLBACK, VALIDATE, ANALYZE)
ALL = len(PHASE_1)
COMPLETE = f"complete: all {ALL} are there"
USERS_CREATED = PHASE_1[0]


def run_client(url: URL, statements: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The plain client, with nothing of the machine's configuration."""
    client = shutil.which("mariadb") or find_program("mysql", "mariadb-client-core")
    host = [f"--host={url.host}", f"--port={url.port}", f"--user={url.username}", "--protocol=tcp"]
    # MariaDB's client from 11.4 on checks certificates unless told otherwise, and warns where it cannot.
    options = ("--loose-disable-ssl-verify-server-cert", *options)
    return subprocess.run(
        [client, "--no-defaults", *host, *options, *([url.database] if url.database else [])],
        env={"MYSQL_PWD": str(url.password or "")},
        input=statements,
        capture_output=True,
        text=True,
        check=False,
    )


def run_script(url: URL, script: str, *options: str) -> list[str]:
    """Lines that a script prints; it has to succeed, and to say nothing on stderr."""
    done = run_client(url, (MIGRATIONS / f"{script}.sql").read_text("utf-8"), *options)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


@contextmanager
def database_user(server: PrivateMariaDB, url: URL, *grants: str) -> Iterator[URL]:
    """The address of a database for a user of these grants; `{db}` in them is its name."""
    name, password = f"u{secrets.token_hex(6)}", secrets.token_hex(8)
    account = f"'{name}'@'127.0.0.1'"
    server.execute(
        f"CREATE USER {account} IDENTIFIED BY '{password}'",
        *(f"GRANT {grant.format(db=f'`{url.database}`')} TO {account}" for grant in grants),
    )
    try:
        yield url.set(username=name, password=password)
    finally:
        server.execute(f"DROP USER {account}")


@contextmanager
def connected(url: URL) -> Iterator[Any]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def execute(url: URL, *statements: str) -> None:
    with connected(url) as connection:
        for statement in statements:
            connection.execute(text(statement))
        connection.commit()


def indices(url: URL) -> list[dict[str, Any]]:
    """Every index of the database to the last property, but for estimates."""
    with connected(url) as connection:
        rows = connection.execute(
            text(
                "SELECT * FROM information_schema.statistics WHERE table_schema = DATABASE() "
                "ORDER BY table_name, index_name, seq_in_index"
            )
        )
        return [{k.lower(): v for k, v in row.items() if k.lower() != "cardinality"} for row in rows.mappings()]


def checksums(url: URL) -> list[Any]:
    with connected(url) as connection:
        return [connection.execute(text(f"CHECKSUM TABLE {table}")).scalar_one() for table in metadata.tables]


def ours(url: URL) -> set[str]:
    return {row["index_name"] for row in indices(url) if row["index_comment"] == MARK}


def said_of(lines: list[str], name: str) -> str:
    """What a script printed under an index's name."""
    return lines[lines.index(name) + 1]


def states(lines: list[str]) -> dict[str, str]:
    """Of phase1_validate.sql, by index."""
    rows = [line.split("\t") for line in lines[1 : ALL + 1]]
    return {row[0]: row[1] for row in rows}


@pytest.fixture
def tables(mariadb_url: URL) -> URL:
    """The operator's tables with a row in each, as an administrator."""
    engine = create_engine(mariadb_url, poolclass=NullPool)
    metadata.create_all(engine)
    engine.dispose()
    execute(
        mariadb_url,
        "INSERT INTO users (name, created_at) VALUES ('Ana', '2026-01-01')",
        "INSERT INTO profiles (user_id, skills) VALUES (1, '[]')",
        "INSERT INTO resumes (user_id, status) VALUES (1, 'send')",
        "INSERT INTO views (model_id, model_type) VALUES (1, 'x')",
        "INSERT INTO activity_log (description, created_at) VALUES ('#video #view', '2026-01-01')",
    )
    return mariadb_url


@pytest.fixture
def operator(mariadb: PrivateMariaDB, tables: URL) -> Iterator[URL]:
    """The same, as a user with SELECT and INDEX on the operator's tables, and on nothing else."""
    with database_user(mariadb, tables, "SELECT, INDEX ON {db}.*") as url:
        yield url


def test_the_script_makes_every_index_and_prints_what_it_did(operator: URL) -> None:
    lines = run_script(operator, CREATE)

    assert ours(operator) == {index.name for index in PHASE_1}
    for index in PHASE_1:
        assert said_of(lines, index.name).startswith(f"created on {index.table} ({','.join(index.columns)}), ")
    assert lines[-1] == f"{ALL} created, 0 there already, 0 served by yours, 0 not created"


def test_twice_in_a_row_changes_nothing_more(operator: URL) -> None:
    run_script(operator, CREATE)
    once = indices(operator)

    lines = run_script(operator, CREATE)

    assert indices(operator) == once
    assert lines[-1] == f"0 created, {ALL} there already, 0 served by yours, 0 not created"


def test_no_script_touches_a_row(operator: URL) -> None:
    before = checksums(operator)
    for script in (*SCRIPTS, *SCRIPTS):
        run_script(operator, script)

    assert checksums(operator) == before


def test_rollback_leaves_the_tables_as_they_were(operator: URL) -> None:
    before = indices(operator)
    run_script(operator, CREATE)

    lines = run_script(operator, ROLLBACK)

    assert indices(operator) == before
    assert lines[-1] == f"{ALL} dropped, 0 of phase 1 kept"


def test_rollback_can_be_run_again_and_before_anything_was_made(operator: URL) -> None:
    before = indices(operator)
    for _ in range(2):
        assert run_script(operator, ROLLBACK)[-1] == "0 dropped, 0 of phase 1 kept"

    assert indices(operator) == before


# What the operator had.

OPERATORS_OWN = {
    "our name, other columns": ("CREATE INDEX {name} ON {table} (name)", State.OTHER_COLUMNS),
    "our name and mark, other columns": (
        "CREATE INDEX {name} ON {table} (name) COMMENT '{mark}'",
        State.OTHER_COLUMNS,
    ),
    "our name, our columns, no mark": ("CREATE INDEX {name} ON {table} ({columns})", State.SERVED),
    "our name, our columns, another comment": (
        "CREATE INDEX {name} ON {table} ({columns}) COMMENT 'ours since 2019'",
        State.SERVED,
    ),
    "our name, more columns": ("CREATE INDEX {name} ON {table} ({columns}, id)", State.SERVED),
    "our columns": ("CREATE INDEX mine ON {table} ({columns})", State.SERVED),
    "our columns and mark, another name": ("CREATE INDEX mine ON {table} ({columns}) COMMENT '{mark}'", State.SERVED),
    "our columns and more": ("CREATE INDEX mine ON {table} ({columns}, id)", State.SERVED),
    "unique": ("CREATE UNIQUE INDEX mine ON {table} ({columns}, id)", State.SERVED),
    "our columns later": ("CREATE INDEX mine ON {table} (id, {columns})", State.ABSENT),
    "ignored": ("CREATE INDEX mine ON {table} ({columns}) IGNORED", State.ABSENT),
}


@pytest.mark.parametrize("own", OPERATORS_OWN)
def test_an_index_of_the_operators_own_stays_as_it_is_whatever_it_is_called(
    operator: URL, tables: URL, own: str
) -> None:
    statement, state = OPERATORS_OWN[own]
    index = USERS_CREATED
    execute(
        tables,
        statement.format(name=index.name, table=index.table, columns=", ".join(index.columns), mark=MARK),
    )
    before = indices(operator)

    assert states(run_script(operator, VALIDATE))[index.name] == state
    lines = run_script(operator, CREATE)

    made = {row["index_name"] for row in indices(operator)} - {row["index_name"] for row in before}
    wanted = {other.name for other in PHASE_1}
    assert made == (wanted if state is State.ABSENT else wanted - {index.name})
    said = said_of(lines, index.name)
    assert ("NOT CREATED" in said) == (state is State.OTHER_COLUMNS)
    assert ("not needed" in said) == (state is State.SERVED)

    run_script(operator, ROLLBACK)
    assert indices(operator) == before


def test_a_prefix_of_a_column_does_not_serve(operator: URL, tables: URL) -> None:
    execute(tables, "CREATE INDEX mine ON views (model_type(20), model_id)")

    run_script(operator, CREATE)

    assert "recs_views_model" in ours(operator)


@pytest.mark.parametrize("index", PHASE_1, ids=lambda index: index.name)
def test_the_doctor_and_the_scripts_agree_on_what_serves(operator: URL, tables: URL, index: Index) -> None:
    """Each index in turn is the operator's own, the next one has our name but other columns."""
    other = PHASE_1[(PHASE_1.index(index) + 1) % ALL]
    execute(
        tables,
        f"CREATE INDEX mine ON {index.table} ({', '.join(index.columns)})",
        f"CREATE INDEX {other.name} ON {other.table} (id)",
    )

    printed = states(run_script(operator, VALIDATE))

    found = read_indices(indices(operator))
    assert printed == {each.name: standing(each, found).state.value for each in PHASE_1}
    assert printed[index.name] == State.SERVED
    assert printed[other.name] == State.OTHER_COLUMNS


def test_rollback_keeps_an_index_that_a_later_foreign_key_leans_on(operator: URL, tables: URL) -> None:
    run_script(operator, CREATE)
    execute(tables, "ALTER TABLE profiles ADD CONSTRAINT belongs FOREIGN KEY (user_id) REFERENCES users (id)")

    lines = run_script(operator, ROLLBACK)

    assert said_of(lines, "recs_profiles_user") == "KEPT: foreign key belongs needs it"
    assert lines[-1] == f"{ALL - 1} dropped, 1 of phase 1 kept"
    execute(tables, "ALTER TABLE profiles DROP FOREIGN KEY belongs")
    run_script(operator, ROLLBACK)
    assert ours(operator) == set()


def test_a_foreign_keys_own_index_serves_and_stays(operator: URL, tables: URL) -> None:
    execute(tables, "ALTER TABLE profiles ADD CONSTRAINT belongs FOREIGN KEY (user_id) REFERENCES users (id)")
    before = indices(operator)

    assert said_of(run_script(operator, CREATE), "recs_profiles_user").startswith("not needed")

    run_script(operator, ROLLBACK)
    assert indices(operator) == before


# What cannot be made.


def test_what_cannot_be_made_is_named_and_the_rest_is_made(operator: URL, tables: URL) -> None:
    execute(
        tables,
        "DROP TABLE user_connections",
        "ALTER TABLE users DROP COLUMN deleted_at",
        "ALTER TABLE views ROW_FORMAT=COMPACT",
        "ALTER TABLE likes MODIFY type TEXT",
    )

    lines = run_script(operator, CREATE)

    assert "there is no table user_connections" in said_of(lines, "recs_connections_created")
    assert "of (deleted_at) users has ()" in said_of(lines, "recs_users_deleted")
    assert "1020 bytes, too long for row format Compact" in said_of(lines, "recs_views_model")
    assert "too long" in said_of(lines, "recs_likes_model")
    # One of users, one of views, two of likes, and all of the table that is gone.
    cannot = 4 + sum(index.table == "user_connections" for index in PHASE_1)
    assert lines[-1] == f"{ALL - cannot} created, 0 there already, 0 served by yours, {cannot} not created"
    assert run_script(operator, VALIDATE)[-1] == f"INCOMPLETE: {cannot} of {ALL} are missing"
    assert run_script(operator, CREATE)[-1].startswith(f"0 created, {ALL - cannot} there already")


def test_a_table_of_another_engine_is_indexed_as_it_can_be(operator: URL, tables: URL) -> None:
    execute(tables, "ALTER TABLE matches ENGINE=MyISAM")
    before = indices(operator)

    run_script(operator, CREATE)
    assert run_script(operator, VALIDATE)[-1] == COMPLETE

    run_script(operator, ROLLBACK)
    assert indices(operator) == before


def test_without_the_index_privilege_the_server_names_it(mariadb: PrivateMariaDB, tables: URL) -> None:
    with database_user(mariadb, tables, "SELECT ON {db}.*") as url:
        done = run_client(url, (MIGRATIONS / f"{CREATE}.sql").read_text("utf-8"))
        run_script(url, VALIDATE)
        run_script(url, ANALYZE)

    assert done.returncode == 1
    assert "INDEX command denied" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_a_database_a_script_ends_at_once(operator: URL, script: str) -> None:
    done = run_client(operator.set(database=""), (MIGRATIONS / f"{script}.sql").read_text("utf-8"))

    assert done.returncode == 1
    assert "No database selected" in done.stderr


@pytest.mark.parametrize(
    "session",
    [
        "SET sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT,STRICT_ALL_TABLES'",
        "SET sql_mode = 'TRADITIONAL'",
        "SET NAMES latin1",
        "SET NAMES utf8mb3 COLLATE utf8mb3_unicode_ci",
        "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
    ],
)
def test_scripts_do_not_depend_on_the_session_they_are_given(operator: URL, session: str) -> None:
    for script in SCRIPTS:
        run_script(operator, script, f"--init-command={session}")
        if script == CREATE:
            assert run_script(operator, VALIDATE, f"--init-command={session}")[-1] == COMPLETE


def test_a_table_whose_dates_default_to_zero_is_indexed_under_a_strict_server(operator: URL, tables: URL) -> None:
    execute(
        tables,
        "SET SESSION sql_mode = ''",
        "ALTER TABLE users MODIFY created_at TIMESTAMP NOT NULL DEFAULT '0000-00-00 00:00:00'",
    )

    run_script(operator, CREATE)

    assert USERS_CREATED.name in ours(operator)


# What is printed.


def test_validate_names_each_index_and_its_state(operator: URL) -> None:
    lines = run_script(operator, VALIDATE)
    assert lines[0] == "index\tstate\tdetail"
    assert states(lines) == {index.name: "absent" for index in PHASE_1}
    assert lines[-1] == f"INCOMPLETE: {ALL} of {ALL} are missing"

    run_script(operator, CREATE)

    lines = run_script(operator, VALIDATE)
    assert states(lines) == {index.name: "present" for index in PHASE_1}
    assert lines[-1] == COMPLETE


def test_the_analysis_shows_settings_sizes_and_the_plan_of_every_query(operator: URL) -> None:
    lines = run_script(operator, ANALYZE)

    assert any(line.startswith("slow_query_log\t") for line in lines)
    assert any(line.startswith("long_query_time\t") for line in lines)
    assert {line.split("\t")[0] for line in lines} >= set(metadata.tables)
    assert [line.split("\t")[0] for line in lines if line.split("\t")[0].endswith(".sql")] == [
        f"{query}.sql" for query in queries()
    ]
    assert lines.count("id\tselect_type\ttable\ttype\tpossible_keys\tkey\tkey_len\tref\trows\tExtra") == len(queries())


def test_the_analysis_counts_the_use_of_indices_where_the_user_may_read_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    table = "performance_schema.table_io_waits_summary_by_index_usage"
    with PrivateMariaDB(tmp_path_factory.mktemp("counting"), performance_schema=True) as server:
        server.execute("CREATE DATABASE counted")
        url = server.url("counted")
        engine = create_engine(url, poolclass=NullPool)
        metadata.create_all(engine)
        engine.dispose()
        run_script(url, CREATE)
        execute(url, "INSERT INTO views (model_id, model_type) VALUES (1, 'x')")
        execute(url, "SELECT COUNT(*) FROM views FORCE INDEX (recs_views_model) WHERE model_type = 'x'")

        with database_user(server, url, "SELECT ON {db}.*") as reader:
            assert any(f"GRANT SELECT ON {table}" in line for line in run_script(reader, ANALYZE))
        with database_user(server, url, "SELECT ON {db}.*", f"SELECT ON {table}") as reader:
            lines = run_script(reader, ANALYZE)

    used = [line.split("\t") for line in lines if line.startswith("views\trecs_views_model\t")]
    assert used
    assert int(used[0][2]) > 0


# The guide.

GUIDE = MIGRATIONS.parent / "docs" / "database" / "phase1_deployment_guide.md"
NOT_OF_THE_CLIENT = ("export ", "read ", ".venv/bin/recs ", "diff ")


def blocks(language: str) -> list[str]:
    """What the guide shows to be typed, without the prompt for a password and what other tests run."""
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```$", GUIDE.read_text("utf-8"), re.M | re.S)
    lines = [[line.strip() for line in block.splitlines()] for block in found]
    kept = [[line for line in block if not line.startswith(NOT_OF_THE_CLIENT)] for block in lines]
    return ["\n".join(block) for block in kept if block]


def test_the_commands_of_the_guide_run_in_its_order(operator: URL, tmp_path: Path) -> None:
    (tmp_path / "migrations").symlink_to(MIGRATIONS)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "MYSQL_HOST": str(operator.host),
        "MYSQL_PORT": str(operator.port),
        "MYSQL_USER": str(operator.username),
        "MYSQL_PWD": str(operator.password),
        "MYSQL_DB": str(operator.database),
    }
    before, printed = indices(operator), []
    for block in blocks("sh"):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        # Newer clients of MariaDB remark that they would rather be called mariadb.
        said = [line for line in done.stderr.splitlines() if "Deprecated program name" not in line]
        assert (done.returncode, said) == (0, []), block
        printed.append(done.stdout.splitlines())
        environment["MYSQL_HOST"] = "192.0.2.1"  # the file that the first block made says which server is meant

    assert [len(lines) for lines in printed] == [0, 0, 2 * ALL + 2, ALL + 3, 0, 2 * ALL + 2]
    assert printed[3][-1] == COMPLETE
    assert (tmp_path / "before.txt").read_text() != (tmp_path / "after.txt").read_text()
    assert indices(operator) == before


def test_the_statements_of_the_guide_run(mariadb: PrivateMariaDB) -> None:
    account = "'recs_admin'@'10.0.0.%'"
    mariadb.execute(f"CREATE USER {account}")
    try:
        mariadb.execute(*(statement for block in blocks("sql") for statement in block.splitlines()))
    finally:
        mariadb.execute(f"DROP USER {account}")
    assert len(blocks("sql")) == 2
