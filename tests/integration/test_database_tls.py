"""TLS to real MariaDB servers: certificates are loaded once, and what a setting asks for is had or refused in words."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError

from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.database import make_engine
from recommendation_service.core.errors import ConfigurationError
from recommendation_service.core.mysql_connections import tls_context
from recommendation_service.core.replicas import ReadReplicas
from tests.servers import LOOPBACK, PrivateMariaDB
from tests.support.certificates import make_certificate


class TlsServer(PrivateMariaDB):
    """A server that offers TLS by a certificate of its own."""

    def __init__(self, folder: Path, *options: str, bears: str = f"IP:{LOOPBACK}") -> None:
        self.certificate, key = make_certificate(folder / "certificate", bears)
        super().__init__(folder / "server", options=[f"--ssl-cert={self.certificate}", f"--ssl-key={key}", *options])

    def start(self) -> None:
        super().start()
        self.execute("CREATE DATABASE IF NOT EXISTS interacpedia")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    with TlsServer(tmp_path_factory.mktemp("tls-mariadb")) as server:
        yield server


@pytest.fixture(autouse=True)
def no_context_of_another_test() -> None:
    tls_context.cache_clear()


def settings_of(server: PrivateMariaDB, **more: Any) -> Settings:
    return load_settings(
        **{
            "mysql_host": LOOPBACK,
            "mysql_port": server.port,
            "mysql_user": server.user,
            "mysql_password": server.password,
            "mysql_use_pooling": False,
            **more,
        }
    )


def version(engine: Engine) -> str:
    """Of a new connection; empty: it is not encrypted."""
    with engine.connect() as connection:
        return str(connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Ssl_version'").one()[1])


def refusal(settings: Settings) -> str:
    with pytest.raises(OperationalError) as refused:
        make_engine(settings).connect()
    return str(refused.value.orig)


def test_without_a_word_a_connection_is_encrypted_where_the_server_offers_it(server: TlsServer) -> None:
    assert version(make_engine(settings_of(server))).startswith("TLSv1.")
    assert version(make_engine(settings_of(server, mysql_tls="off"))) == ""


@pytest.mark.parametrize("tls", [{}, {"mysql_tls": "verified"}], ids=["preferred", "verified"])
def test_certificates_are_loaded_once_for_all_connections_of_a_process(
    server: TlsServer, monkeypatch: pytest.MonkeyPatch, tls: dict[str, Any]
) -> None:
    """Pooled or not, of replicas, and of looks at them."""
    if tls:
        tls = tls | {"mysql_ca_file": server.certificate}
    replica = server.url("interacpedia").render_as_string(hide_password=False)
    unpooled = settings_of(server, mysql_replica_urls=replica, **tls)
    pooled = settings_of(server, mysql_use_pooling=True, **tls)
    loads: list[str] = []

    def counted(name: str) -> None:
        original = getattr(ssl.SSLContext, name)

        def load(self: ssl.SSLContext, *arguments: Any, **options: Any) -> Any:
            loads.append(name)
            return original(self, *arguments, **options)

        monkeypatch.setattr(ssl.SSLContext, name, load)

    for name in ("load_default_certs", "load_verify_locations", "set_default_verify_paths"):
        counted(name)
    for settings in (unpooled, pooled):
        reads = ReadReplicas(settings)
        for _ in range(5):
            with reads.connect():
                pass
        assert all(version(engine) for engine in (reads.primary, *(replica.engine for replica in reads.replicas)))
        for one in reads.replicas:
            assert version(one._look_engine)
        reads.dispose()

    assert loads == (["load_verify_locations"] if tls else [])


def test_a_next_connection_resumes_the_session_of_the_one_before(server: TlsServer) -> None:
    engine = make_engine(settings_of(server))

    def is_resumed() -> bool:
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            return bool(driver._sock.session_reused)

    assert [is_resumed() for _ in range(4)] == [False, True, True, True]
    server.restart()  # it knows the session no more
    assert not is_resumed()


def test_a_server_that_stumbles_over_a_session_gets_a_new_one(
    server: TlsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(settings_of(server))
    assert version(engine)
    original = ssl.SSLContext.wrap_socket
    sessions: list[bool] = []

    def stumble(self: ssl.SSLContext, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        sessions.append(options.get("session") is not None)
        if sessions[-1]:
            raise ssl.SSLError(1, "[SSL: SESSION_ID_CONTEXT_UNINITIALIZED]")
        return original(self, *arguments, **options)

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", stumble)

    assert version(engine)
    assert sessions == [True, False]


def test_a_certificate_is_verified_where_that_is_asked_for(server: TlsServer, tmp_path: Path) -> None:
    other, _ = make_certificate(tmp_path)

    assert version(make_engine(settings_of(server, mysql_tls="verified", mysql_ca_file=server.certificate)))
    for more in ({"mysql_ca_file": other}, {}):
        said = refusal(settings_of(server, mysql_tls="verified", **more))
        assert f"The certificate of {LOOPBACK}:{server.port} is not trusted (self" in said
        assert "MYSQL_CA_FILE" in said


def test_a_certificate_of_another_name_is_refused(tmp_path: Path) -> None:
    with TlsServer(tmp_path, bears="DNS:elsewhere.example") as server:
        said = refusal(settings_of(server, mysql_tls="verified", mysql_ca_file=server.certificate))

    assert "is not trusted (IP address mismatch" in said
    assert "MYSQL_HOST a name that the certificate bears" in said


def test_a_server_without_tls_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    certificate, _ = make_certificate(tmp_path / "certificate")
    with PrivateMariaDB(tmp_path / "server", options=["--skip-ssl"]) as server:
        said = refusal(settings_of(server, mysql_tls="verified", mysql_ca_file=certificate))
        server.execute("CREATE DATABASE interacpedia")

        assert f"{LOOPBACK}:{server.port} offers no TLS, and MYSQL_TLS or the address asks for it" in said
        assert version(make_engine(settings_of(server))) == ""


def test_a_server_with_old_tls_only_is_named_as_such(tmp_path: Path) -> None:
    with TlsServer(tmp_path, "--tls-version=TLSv1.1") as server:
        said = refusal(settings_of(server))

        assert f"{LOOPBACK}:{server.port} offers only TLS that is older than 1.2" in said
        assert "MYSQL_TLS=off" in said
        assert version(make_engine(settings_of(server, mysql_tls="off"))) == ""


@pytest.mark.parametrize("words", ["", "?ssl_verify_cert=false"], ids=["by settings", "by the address"])
def test_a_server_that_dies_takes_no_connection_to_another_with_it(
    server: TlsServer, tmp_path: Path, words: str
) -> None:
    """As OpenSSL's errors are a thread's and not a connection's."""
    with TlsServer(tmp_path / "other") as dying:
        engines = [
            make_engine(
                load_settings(database_url=each.url("interacpedia").render_as_string(hide_password=False) + words)
            )
            for each in (server, dying)
        ]
        alive, dead = (engine.connect() for engine in engines)
        for connection in (alive, dead):
            assert connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Ssl_version'").one()[1].startswith("TLSv1.")
        dying.kill()
        with pytest.raises(OperationalError):
            dead.exec_driver_sql("SELECT 1")
        assert alive.exec_driver_sql("SELECT 1").scalar_one() == 1
        alive.close()
        dead.close()
        for engine in engines:
            engine.dispose()


@pytest.mark.parametrize("tls", ["preferred", "verified"])
def test_a_socket_is_not_encrypted(server: TlsServer, tls: str) -> None:
    socket = server.folder / "data" / "mariadbd.sock"
    url = server.url("interacpedia").update_query_dict({"unix_socket": str(socket)})
    address = url.render_as_string(hide_password=False)
    more = {"mysql_ca_file": server.certificate} if tls == "verified" else {}
    engine = make_engine(load_settings(database_url=address, mysql_tls=tls, **more))

    # The test's user may come by TCP only: who is refused was let in as far as that.
    with pytest.raises(OperationalError, match="Access denied"):
        version(engine)


def test_what_an_address_says_of_tls_holds_and_is_read_once(
    server: TlsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, _ = make_certificate(tmp_path)
    loads: list[object] = []
    original = ssl.create_default_context

    def counted(*arguments: Any, **options: Any) -> ssl.SSLContext:
        loads.append(options)
        return original(*arguments, **options)

    def engine(**query: str) -> Engine:
        url = server.url("interacpedia").update_query_dict(query).render_as_string(hide_password=False)
        return make_engine(load_settings(database_url=url, mysql_use_pooling=False, mysql_tls="off"))

    monkeypatch.setattr(ssl, "create_default_context", counted)

    trusted = engine(ssl_ca=str(server.certificate), ssl_verify_cert="true")
    assert all(version(trusted) for _ in range(3))
    assert len(loads) == 1
    assert version(engine(ssl_disabled="true")) == ""
    assert version(engine(ssl_disabled="false")) != ""
    with pytest.raises(OperationalError, match="is not trusted"):
        version(engine(ssl_ca=str(other), ssl_verify_cert="true"))
    assert version(engine(ssl_ca=str(other), ssl_verify_cert="false"))


def test_a_file_that_holds_no_certificate_is_named_before_anything_starts(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    server = {"mysql_host": "db", "mysql_user": "recs", "mysql_tls": "verified"}

    for path, problem in ((empty, "holds no certificate in PEM form"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(ConfigurationError, match=f"MYSQL_CA_FILE: {problem}"):
            load_settings(**server, mysql_ca_file=path)
    certificate, _ = make_certificate(tmp_path)
    with pytest.raises(ConfigurationError, match="MYSQL_CA_FILE is set, and MYSQL_TLS=preferred checks no certificate"):
        load_settings(**server | {"mysql_tls": "preferred"}, mysql_ca_file=certificate)


def test_a_password_that_is_not_latin_is_sent_as_other_clients_do(server: TlsServer) -> None:
    server.execute(f"CREATE OR REPLACE USER 'ñandú'@'{LOOPBACK}' IDENTIFIED BY 'clave ñ€🎥'")

    engine = make_engine(
        settings_of(server, mysql_user="ñandú", mysql_password="clave ñ€🎥", mysql_db="information_schema")
    )

    assert version(engine)
