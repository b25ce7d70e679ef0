"""Connecting to PostgreSQL: TLS as the address says, passwords from a file, servers that are full or hang."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from recommendation_service.core.config import load_settings
from recommendation_service.core.database import make_engine, words_of
from recommendation_service.core.errors import ConfigurationError
from tests.postgresql import PrivatePostgreSQL
from tests.support.certificates import make_certificate


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("postgresql-certificate"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, files: tuple[Path, Path]) -> Iterator[PrivatePostgreSQL]:
    """One that offers TLS, and has few connections."""
    server = PrivatePostgreSQL(
        tmp_path_factory.mktemp("postgresql-tls"), tls=files, options=["-c", "max_connections=10"]
    )
    try:
        server.start()
        yield server
    finally:
        server.remove()


def engine_of(url: URL, **settings: object) -> Engine:
    return make_engine(load_settings(database_url=url.render_as_string(hide_password=False), **settings))


def is_encrypted(url: URL) -> bool:
    engine = engine_of(url)
    try:
        with engine.connect() as connection:
            statement = text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            return bool(connection.execute(statement).scalar_one())
    finally:
        engine.dispose()


def refusal(url: URL, **settings: object) -> str:
    """What is said of an address by which there is no connection."""
    engine = engine_of(url, **settings)
    with pytest.raises(DBAPIError) as raised:
        engine.connect()
    engine.dispose()
    return words_of(raised.value)


def test_tls_is_as_the_address_says(
    server: PrivatePostgreSQL, files: tuple[Path, Path], postgresql: PrivatePostgreSQL, tmp_path: Path
) -> None:
    url, authority = server.url(), str(files[0])
    assert is_encrypted(url)
    assert is_encrypted(url.update_query_dict({"sslmode": "require"}))
    assert is_encrypted(url.update_query_dict({"sslmode": "verify-full", "sslrootcert": authority}))
    assert not is_encrypted(url.update_query_dict({"sslmode": "disable"}))
    assert not is_encrypted(postgresql.url())

    other, _ = make_certificate(tmp_path)
    said = refusal(url.update_query_dict({"sslmode": "verify-full", "sslrootcert": str(other)}))
    assert "certificate verify failed" in said
    said = refusal(url.update_query_dict({"sslmode": "verify-full", "sslrootcert": "/no/where.pem"}))
    assert 'root certificate file "/no/where.pem" does not exist' in said
    assert "server does not support SSL" in refusal(postgresql.url().update_query_dict({"sslmode": "require"}))


@pytest.mark.parametrize(
    ("query", "more", "problem"),
    [
        ("?sslmode=verify_full", {}, "DATABASE_URL: has an sslmode that is none of disable, allow, prefer, require"),
        ("", {"mysql_tls": "verified"}, r"address says it: DATABASE_URL=…\?sslmode=verify-full&sslrootcert=FILE"),
        ("", {"mysql_tls": "off"}, r"address says it: DATABASE_URL=…\?sslmode=disable"),
    ],
)
def test_what_says_nothing_of_tls_to_postgresql_is_refused_at_the_start(
    query: str, more: dict[str, str], problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem) as raised:
        load_settings(database_url=f"postgres://recs:hush-hush@db/shop{query}", **more)
    assert "hush-hush" not in str(raised.value)


def _without_password(server: PrivatePostgreSQL) -> URL:
    return URL.create("postgresql", server.user, host="127.0.0.1", port=server.port, database="postgres")


def test_a_password_may_be_in_its_own_file(
    server: PrivatePostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"127.0.0.1:{server.port}:*:{server.user}:{server.password}\n")
    passwords.chmod(0o600)
    without = _without_password(server)
    assert "no password supplied" in refusal(without)
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    assert is_encrypted(without)


def test_no_password_is_in_what_is_said(server: PrivatePostgreSQL) -> None:
    said = [
        refusal(server.url().set(password="hush-hush")),
        refusal(_without_password(server).update_query_dict({"password": "hush-hush"})),
        refusal(server.url("nowhere")),
        refusal(server.url().set(port=1)),
    ]
    assert "hush-hush" not in " ".join(said)
    assert server.password not in " ".join(said)
    assert "password authentication failed" in said[0]
    assert 'database "nowhere" does not exist' in said[2]


def test_a_server_without_a_free_connection_says_so(server: PrivatePostgreSQL) -> None:
    server.execute("CREATE ROLE few LOGIN PASSWORD 'few' CONNECTION LIMIT 1")
    engine = engine_of(server.url().set(username="few", password="few"))
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        assert 'too many connections for role "few"' in refusal(server.url().set(username="few", password="few"))
    engine.dispose()


def test_a_server_that_hangs_ends_a_wait_and_its_connections_are_replaced(server: PrivatePostgreSQL) -> None:
    """Its own limit of a statement does not hold then, and psycopg has none."""
    engine = engine_of(server.url(), mysql_connect_timeout_seconds=2, mysql_read_timeout_seconds=1)
    with engine.connect() as connection:
        first = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        server.pause()
        started = time.monotonic()
        try:
            with pytest.raises(DBAPIError) as raised:
                connection.execute(text("SELECT 2"))
            assert 1 < time.monotonic() - started < 60
            assert words_of(raised.value) == "the server has not answered for 6 s"
            assert raised.value.connection_invalidated
            connection.rollback()
        finally:
            server.resume()
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() != first
    engine.dispose()
