"""Opens the connections of an engine to MySQL or MariaDB: the limits of a handshake, TLS, and what failed in words.

PyMySQL by itself reads every certificate that the machine trusts at each connection, over a socket too, which is
far more work than all the rest of it: so a process makes its TLS context once. It takes TLS sessions up again, which
halves what a handshake costs.
"""

import contextlib
import ssl
import time
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pymysql.constants import CLIENT, CR
from pymysql.err import MySQLError, OperationalError
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine

from recommendation_service.core.config import Settings

Server = tuple[str, int]

# A session that a server would not take up is not replaced at every connection: keeping one costs, too.
SESSION_SECONDS = 60.0
# What PyMySQL raises beside its own errors: a package that an authentication wants and that is not there, and what
# is not MySQL at the other end.
_NOT_ITS_OWN = (RuntimeError, ValueError, TypeError, LookupError, AttributeError)
_OLD = ("UNSUPPORTED_PROTOCOL", "PROTOCOL_VERSION", "WRONG_SSL_VERSION", "VERSION_TOO_LOW")


class Tls(NamedTuple):
    """How connections are encrypted; without a context they are not."""

    context: ssl.SSLContext | None
    is_required: bool


class TlsSocket(ssl.SSLSocket):
    """One whose failure stays its own.

    Newer Pythons leave OpenSSL's error of a connection that broke in the thread's queue, where the next operation on
    another connection finds it (CPython's issue 148594): a server that dies would take a healthy one's with it.
    """

    def read(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().read(*arguments, **options)
        except OSError:
            _leave_no_error()
            raise

    def send(self, *arguments: Any, **options: Any) -> int:
        try:
            return super().send(*arguments, **options)
        except OSError:
            _leave_no_error()
            raise

    def do_handshake(self, *arguments: Any, **options: Any) -> None:
        try:
            super().do_handshake(*arguments, **options)
        except OSError:
            _leave_no_error()
            raise


def _leave_no_error() -> None:
    with contextlib.suppress(ssl.SSLError):
        _context_of_no_use().set_ciphers("none")  # which is refused, and empties the queue


@cache
def _context_of_no_use() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class TlsContext(ssl.SSLContext):
    """Certificates that were loaded once, and for each server the session that a next connection goes on with.

    A session was verified as this context asks when it began, and is given to the same name and port only.
    """

    sslsocket_class = TlsSocket

    def __init__(self, *_: Any) -> None:
        self._sessions: dict[Server, tuple[ssl.SSLSession, float]] = {}

    def wrap_socket(self, sock: Any, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        kept = self._sessions.get((str(options.get("server_hostname")), sock.getpeername()[1]))
        return super().wrap_socket(sock, *arguments, **options | {"session": kept[0] if kept else None})

    def keep(self, server: Server, opened: ssl.SSLSocket) -> None:
        """Remember the session of a connection that is open and has read something: the server's tickets with it."""
        kept, now = self._sessions.get(server), time.monotonic()
        if opened.session_reused or (kept and now - kept[1] < SESSION_SECONDS):
            return
        if opened.session is not None:
            self._sessions[server] = opened.session, now

    def forget(self, server: Server) -> bool:
        """Whether there was a session."""
        return self._sessions.pop(server, None) is not None


@cache
def tls_context(mode: Literal["preferred", "verified"], ca_file: Path | None) -> TlsContext:
    """The process's one. ``ca_file``: of the authorities that are trusted, else the machine's."""
    context = TlsContext(ssl.PROTOCOL_TLS_CLIENT)
    if mode == "preferred":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cafile=ca_file)
    return context


def open_connections(engine: Engine, settings: Settings, url: URL) -> None:
    """Open the engine's connections as the settings say; TLS as the address says, where that has words of its own.

    PyMySQL's connect_timeout ends with TCP's handshake; for the server's it waits as long as for a result. A frozen
    server, or a proxy without one behind it, takes connections and says nothing. So a connection is opened with the
    short limit for everything, and has the long one from then on.
    """
    seconds = settings.mysql_connect_timeout_seconds
    tls = _of_settings(settings, url)

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _record: Any, arguments: list[Any], parameters: dict[str, Any]) -> Any:
        nonlocal tls
        if dialect.driver != "pymysql":
            return dialect.connect(*arguments, **parameters | {"connect_timeout": seconds})
        if tls is None:  # the address's own: the driver reads them, once
            tls = _of_driver(dialect.connect(*arguments, **_readable(parameters), defer_connect=True))
        limits = {"connect_timeout": seconds, "read_timeout": seconds, "write_timeout": seconds}
        connection = _open(dialect, arguments, parameters | limits, tls)
        connection._read_timeout = parameters["read_timeout"]
        connection._write_timeout = parameters["write_timeout"]
        return connection


def _of_settings(settings: Settings, url: URL) -> Tls | None:
    if any(name.startswith("ssl") or name == "read_default_file" for name in url.query):
        return None
    # The machine itself vouches for who listens on a socket, and nobody else reads along.
    if settings.mysql_tls == "off" or "unix_socket" in url.query:
        return Tls(None, False)
    return Tls(tls_context(settings.mysql_tls, settings.mysql_ca_file), settings.mysql_tls == "verified")


def _of_driver(unopened: Any) -> Tls:
    if not unopened.ssl:
        return Tls(None, False)
    unopened.ctx.sslsocket_class = TlsSocket
    return Tls(unopened.ctx, unopened._ssl_required)


def _readable(parameters: dict[str, Any]) -> dict[str, Any]:
    """What an address says of TLS, so that the driver understands it: in an address everything is text, "false" is true
    to the driver, and beside ssl_verify_cert it forgets the file of authorities, which SQLAlchemy puts elsewhere."""
    kept = {name: value for name, value in parameters.items() if not name.startswith("ssl")}
    if _is_yes(parameters.get("ssl_disabled", False)):
        return kept | {"ssl_disabled": True}
    words = dict(parameters.get("ssl", {}))
    if "ssl_key_password" in parameters:
        words["password"] = parameters["ssl_key_password"]
    if "ssl_verify_cert" in parameters or "ssl_verify_identity" in parameters:
        words["check_hostname"] = _is_yes(parameters.get("ssl_verify_identity", False))
        words["verify_mode"] = words["check_hostname"] or _is_yes(parameters.get("ssl_verify_cert", False))
    return kept | ({"ssl": words} if words else {})


def _is_yes(value: object) -> bool:
    return str(value).strip().lower() not in {"", "false", "0", "no", "off"}


def _open(dialect: Any, arguments: list[Any], parameters: dict[str, Any], tls: Tls) -> Any:
    options = {name: value for name, value in parameters.items() if not name.startswith("ssl")}
    options |= {"ssl_disabled": True} if tls.context is None else {"ssl": tls.context}
    if isinstance(options.get("password"), str):
        options["password"] = options["password"].encode()  # as every other client; PyMySQL's own is Latin-1
    while True:
        connection = dialect.connect(*arguments, **options, defer_connect=True)
        # SET NAMES is said once, in init_command: PyMySQL would begin with it, and SQLAlchemy where there is a name.
        connection.set_character_set = _is_said
        connection.character_set_name = partial(_say_no_name, connection)
        if tls.context is not None and not tls.is_required:
            # As PyMySQL does where it makes the context: TLS where the server offers it.
            connection._ssl_required = False
            connection.client_flag &= ~CLIENT.SSL
        server = (connection.host, connection.port)
        try:
            connection.connect()
        except (MySQLError, *_NOT_ITS_OWN) as error:
            is_tls = isinstance(getattr(error, "original_exception", None), ssl.SSLError)
            if is_tls and isinstance(tls.context, TlsContext) and tls.context.forget(server):
                continue  # a server that stumbles over a session, instead of not resuming it, gets a new one
            words = _words(error, f"{connection.host}:{connection.port}")
            if words is None:
                raise
            raise OperationalError(*words) from error
        if isinstance(connection._sock, ssl.SSLSocket) and isinstance(tls.context, TlsContext):
            tls.context.keep(server, connection._sock)
        return connection


def _is_said(*_: Any) -> None:
    """Instead of another round trip."""


def _say_no_name(connection: Any) -> None:
    """To the first who asks, which is SQLAlchemy when a connection is new; the driver answers the next."""
    del connection.character_set_name


def _words(error: Exception, where: str) -> tuple[int, str] | None:
    """The number, and what happened and what to do about it, where the driver does not say that; else None."""
    cause = getattr(error, "original_exception", None)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return CR.CR_SSL_CONNECTION_ERROR, (
            f"The certificate of {where} is not trusted ({cause.verify_message}): name its authority's certificate in "
            "MYSQL_CA_FILE, and in MYSQL_HOST a name that the certificate bears"
        )
    if isinstance(cause, ssl.SSLError):
        reason = str(cause.reason or cause)
        said = f"TLS with {where} failed ({reason}): see the server's ssl_* settings, and MYSQL_TLS"
        if any(word in reason.upper() for word in _OLD):
            said = (
                f"{where} offers only TLS that is older than 1.2 and no protection any more ({reason}): "
                "upgrade the server, or set MYSQL_TLS=off where nobody can listen between here and there"
            )
        return CR.CR_SSL_CONNECTION_ERROR, said
    if isinstance(error, MySQLError):
        if error.args[:1] == (CR.CR_SSL_CONNECTION_ERROR,):
            return CR.CR_SSL_CONNECTION_ERROR, (
                f"{where} offers no TLS, and MYSQL_TLS or the address asks for it: set up the server's certificate, or "
                "set MYSQL_TLS=preferred"
            )
        return None
    if "pynacl" in str(error):
        return CR.CR_AUTH_PLUGIN_CANNOT_LOAD, (
            "The user is authenticated by ed25519, which the driver cannot do without the package PyNaCl: install "
            "that, or have the user identified by mysql_native_password or caching_sha2_password"
        )
    return CR.CR_SERVER_HANDSHAKE_ERR, f"{where} does not answer as MySQL does ({type(error).__name__}: {error})"
