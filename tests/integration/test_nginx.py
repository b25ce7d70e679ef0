"""deploy/nginx through a running nginx in front of the service, and what the service itself says to caches.

The files are run as they are, with what an operator changes (names of files, ports, the service's address) replaced
by values of this test, and with a limit made small where a test is about that limit.
"""

from __future__ import annotations

import gzip
import ipaddress
import itertools
import json
import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from recommendation_service.api.bodies import LARGEST_BODY_BYTES
from recommendation_service.api.operations import RELOAD_WAIT_SECONDS
from recommendation_service.core.config import Settings
from recommendation_service.server.door import USUAL_CONNECTIONS
from tests.end_to_end.service import PATIENCE_SECONDS, REPOSITORY, Service, load_demo
from tests.servers import LOOPBACK, PrivateServer, find_program, free_port, wait_until
from tests.support.http_contract import error_of

DEPLOY = REPOSITORY / "deploy" / "nginx"
CONFIGURATION = (DEPLOY / "recommendation-service.conf").read_text("utf-8")
SNIPPETS = {path.name: path.read_text("utf-8") for path in sorted((DEPLOY / "snippets").glob("*.conf"))}
NAME = "recommendations.example.com"
FOR_EVER = "public, max-age=31536000, immutable"
# The service lets an address or a user ask once in so long: tests of feeds use a user each.
SECONDS_PER_FEED = 1000


class Nginx(PrivateServer):
    """The configuration of deploy/nginx under an nginx of our own.

    As one process (`master_process off`), so that it goes with the tests even where they are killed.
    """

    name = "nginx"

    def __init__(self, folder: Path, service_port: int, changes: Mapping[str, str], host: str = NAME) -> None:
        super().__init__(folder)
        self.service_port = service_port
        self.changes = {**changes, NAME: host}
        self.host = host
        self.plain_port = 0

    @property
    def access_log(self) -> list[dict[str, Any]]:
        lines = (self.folder / "access.log").read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @property
    def cached_files(self) -> list[Path]:
        return [path for path in (self.folder / "cache").rglob("*") if path.is_file()]

    def prepare(self) -> None:
        for name in ("spool", "conf.d", "snippets", "tls"):
            (self.folder / name).mkdir()
        make_certificate(self.folder / "tls", self.host)
        for name, text in SNIPPETS.items():
            (self.folder / "snippets" / name).write_text(text)
        self.plain_port = free_port()

    def command(self) -> list[str]:
        (self.folder / "conf.d" / "recommendation-service.conf").write_text(self.configuration())
        (self.folder / "nginx.conf").write_text(self.main_configuration())
        return [find_program("nginx", "nginx-light"), *self.arguments]

    @property
    def arguments(self) -> list[str]:
        return ["-e", str(self.log_path), "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")]

    def main_configuration(self) -> str:
        """What Debian's nginx.conf says, as far as it matters, with every path in our folder."""
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"{kind}_temp_path {self.folder}/spool/{kind};\n" for kind in kinds)
        user = "user root;\n" if os.geteuid() == 0 else ""  # pytest's folders are for their owner only
        return (
            f"{user}daemon off;\nmaster_process off;\nworker_processes 1;\npid {self.folder}/nginx.pid;\n"
            f"error_log {self.log_path} warn;\nevents {{ worker_connections 2048; }}\n"
            f"http {{\n{paths}access_log off;\ndefault_type application/octet-stream;\n"
            f"include conf.d/*.conf;\n}}\n"
        )

    def configuration(self) -> str:
        changes = {
            "/etc/nginx/tls/recommendation-service.crt": f"{self.folder}/tls/certificate.pem",
            "/etc/nginx/tls/recommendation-service.key": f"{self.folder}/tls/key.pem",
            "/var/cache/nginx/recommendation-service ": f"{self.folder}/cache ",
            "/var/log/nginx/recommendation-service.log": f"{self.folder}/access.log",
            "server 127.0.0.1:5005": f"server {LOOPBACK}:{self.service_port}",
            **self.changes,
        }
        text = CONFIGURATION
        for old, new in changes.items():
            assert old in text, f"{old!r} is not in the configuration any more"
            text = re.sub(re.escape(old), lambda _, new=new: new, text)
        text = re.sub(r"^ *listen \[::\]:.*\n", "", text, flags=re.M)  # a machine may have no IPv6
        text, plain = re.subn(r"listen 80\b", f"listen {LOOPBACK}:{self.plain_port}", text)
        text, encrypted = re.subn(r"listen 443\b", f"listen {LOOPBACK}:{self.port}", text)
        assert (plain, encrypted) == (1, 2)
        return text

    def answers(self, timeout_seconds: float = 1.0) -> bool:
        try:
            with closing(socket.create_connection((LOOPBACK, self.port), timeout_seconds)) as connection:
                context = self.tls_context()
                with context.wrap_socket(connection, server_hostname=self.host):
                    return True
        except OSError:
            return False

    def tls_context(self) -> ssl.SSLContext:
        """Trusts our certificate and no other."""
        return ssl.create_default_context(cafile=str(self.folder / "tls" / "certificate.pem"))

    def client(self, source: str = LOOPBACK) -> httpx.Client:
        """A client that calls from an address of this machine, and checks the certificate and its name."""
        transport = httpx.HTTPTransport(verify=self.tls_context(), local_address=source)
        return httpx.Client(
            transport=_Named(transport),
            base_url=f"https://{LOOPBACK}:{self.port}",
            headers={"Host": NAME},
            timeout=PATIENCE_SECONDS,
        )


class _Named(httpx.BaseTransport):
    """Names the server in the handshake, where the address says only where to connect."""

    def __init__(self, inner: httpx.HTTPTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "sni_hostname": NAME}
        return self._inner.handle_request(request)

    def close(self) -> None:
        self._inner.close()


def make_certificate(folder: Path, host: str = NAME) -> None:
    """A certificate of our own for the name in the configuration, valid today."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    alternatives = [x509.DNSName(host), x509.IPAddress(ipaddress.ip_address(LOOPBACK))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


StartNginx = Callable[..., Nginx]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("nginx-service")
    load_demo(folder)
    settings = {"RATE_LIMIT_PER_USER": str(1 / SECONDS_PER_FEED), "LOG_LEVEL": "error"}
    with Service.gunicorn(folder, 2, settings) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def start_nginx(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartNginx]:
    """Starts an nginx in front of the service, or of another port, with some of the configuration's words changed."""
    with ExitStack() as stack:

        def start(changes: Mapping[str, str] | None = None, service_port: int = 0) -> Nginx:
            folder = tmp_path_factory.mktemp("nginx")
            port = service_port or int(service.address.rpartition(":")[2])
            return stack.enter_context(Nginx(folder, port, changes or {}))

        yield start


@pytest.fixture(scope="module")
def nginx(start_nginx: StartNginx) -> Nginx:
    """The configuration with nothing changed that a request could notice."""
    return start_nginx()


@pytest.fixture
def client(nginx: Nginx) -> Iterator[httpx.Client]:
    with nginx.client() as connected:
        yield connected


_users = itertools.count(1)


def fresh_user() -> int:
    """Somebody who has not asked for a feed yet: the service's limit is on users."""
    return next(_users)


# What the service says to caches, without nginx.


def test_the_document_is_asked_for_each_time_and_sent_only_where_it_changed(service: Service) -> None:
    first = service.get("/openapi.json")
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = service.client.get("/openapi.json", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b""), known
        assert again.headers["etag"] == etag
        assert again.headers["cache-control"] == "no-cache"
    other = service.client.get("/openapi.json", headers={"If-None-Match": '"other"'})
    assert (other.status_code, other.content) == (200, first.content)


def test_the_page_names_the_document_by_its_content(service: Service) -> None:
    [name] = re.findall(r"docs-assets/openapi-[0-9a-f]{16}\.json", service.get("/docs").text)
    assert service.get(f"/{name}").content == service.get("/openapi.json").content


def test_nothing_is_cached_of_an_asset_that_is_not_there(service: Service) -> None:
    """An old process is asked for a new process's names while the one replaces the other."""
    answer = service.get(f"/docs-assets/swagger-ui-{'0' * 16}.css")
    error_of(answer, 404, "not_found")
    assert answer.headers["cache-control"] == "no-store"


def test_every_process_gives_the_assets_the_same_names(tmp_path: Path) -> None:
    """Whatever order sets have in it; otherwise a page of one pod would name what another one does not know."""
    program = (
        "import re; from starlette.testclient import TestClient; "
        "from recommendation_service.bootstrap import create_app; "
        "print(sorted(re.findall(r'docs-assets/[^\"\\']+', TestClient(create_app()).get('/docs').text)))"
    )

    def names(seed: int) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": str(seed), "DATA_DIR": str(tmp_path), "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    first, *others = [names(seed) for seed in (1, 2, 3)]
    assert first.count("docs-assets/") == 4
    assert others == [first, first]


def test_importing_and_making_the_application_reads_no_asset(tmp_path: Path) -> None:
    program = (
        "import sys; opened = []\n"
        "sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == 'open' else None)\n"
        "from recommendation_service.bootstrap import create_app; create_app()\n"
        "print([path for path in opened if 'fastapi_swagger/' in path])"
    )
    environment = {**os.environ, "DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


# The configuration by itself.


def test_nginx_accepts_the_configuration_without_a_word_of_warning(tmp_path: Path) -> None:
    nginx = Nginx(tmp_path, 5005, {})
    nginx.port = free_port()
    nginx.prepare()
    done = subprocess.run([*nginx.command(), "-t"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "nginx.conf"
    # nginx 1.25 and newer want `http2 on;` instead, which older ones do not know; they take both, and say so once.
    deprecated = 'the "listen ... http2" directive is deprecated, use the "http2" directive instead in '
    assert [line for line in done.stderr.splitlines() if deprecated not in line] == [
        f"nginx: the configuration file {path} syntax is ok",
        f"nginx: configuration file {path} test is successful",
    ]


def seconds_of(directive: str) -> list[float]:
    found = re.findall(rf"^ *{directive} (\d+)s;", "\n".join([CONFIGURATION, *SNIPPETS.values()]), re.M)
    assert found, directive
    return [float(value) for value in found]


def test_its_times_and_sizes_fit_those_of_the_service() -> None:
    settings = Settings()
    upstream = CONFIGURATION.split("upstream recommendation_service {")[1].split("\n}")[0]
    [keepalive] = re.findall(r"keepalive_timeout (\d+)s;", upstream)
    assert int(keepalive) < settings.gunicorn_keepalive, "nginx must be the one that closes an idle connection"
    waits = seconds_of("proxy_read_timeout")
    assert max(waits) < settings.gunicorn_timeout, "the client must have its answer before a worker is killed"
    assert min(waits) > settings.shed_load_after_seconds, "a worker that sheds load must be heard"
    assert max(seconds_of("client_header_timeout")) <= settings.client_header_timeout_seconds
    assert max(seconds_of("client_body_timeout")) <= settings.client_body_timeout_seconds
    assert max(seconds_of("send_timeout")) <= settings.answer_timeout_seconds
    [most] = re.findall(r"max_conns=(\d+)", CONFIGURATION)
    assert int(most) <= USUAL_CONNECTIONS // 4, "one worker may get them all, from one address"
    assert settings.max_header_bytes > 4 * 8192 + 4096, "nginx's large_client_header_buffers, and what it adds"
    reload = re.search(r"location = /api/search/reload \{.*?proxy_read_timeout (\d+)s", CONFIGURATION, re.S)
    assert reload is not None
    assert float(reload[1]) > RELOAD_WAIT_SECONDS
    assert f"client_max_body_size {LARGEST_BODY_BYTES};" in CONFIGURATION
    assert f"{settings.api_path}/search/" in CONFIGURATION
    assert settings.gunicorn_bind.rpartition(":")[2] in re.findall(r"server 127\.0\.0\.1:(\d+)", CONFIGURATION)


def test_no_location_loses_the_headers_of_the_server() -> None:
    """One add_header in a location, and nginx forgets all that were inherited."""
    for name, text in {"recommendation-service.conf": CONFIGURATION, **SNIPPETS}.items():
        if not name.endswith("-headers.conf"):
            assert not re.search(r"^\s*add_header", text, re.M), name


def test_every_snippet_is_included_and_every_included_one_is_there() -> None:
    included = re.findall(r"^ *include snippets/([\w.-]+);", "\n".join([CONFIGURATION, *SNIPPETS.values()]), re.M)
    assert set(included) == set(SNIPPETS)


def test_what_nginx_refuses_has_the_form_of_the_contract() -> None:
    returned = re.findall(r"return (\d+) '([^']*)';", SNIPPETS["recommendation-service-errors.conf"])
    assert len(returned) == 9
    for status, text in returned:
        body = json.loads(text)
        assert list(body) == ["statusCode", "error"]
        assert body["statusCode"] == int(status)
        assert list(body["error"]) == ["code", "message", "details"]


# Through a running nginx.


def test_feeds_pass_and_are_never_cached(nginx: Nginx, client: httpx.Client) -> None:
    requests = set()
    for endpoint, ids in (("total", "mix_ids"), ("discover", "resume_ids"), ("flow", "challenge_ids")):
        for _ in range(2):
            answer = client.post(f"/api/search/{endpoint}", json={"SELF_ID": fresh_user(), "N_VIDEOS": 3})
            assert answer.status_code == 200, answer.text
            assert len(answer.json()["body"][ids]) == 3
            assert answer.headers["cache-control"] == "private, no-store"
            assert "x-cache" not in answer.headers
            assert answer.headers.get_list("x-request-id") == [answer.json()["body"]["request_id"]]
            requests.add(answer.headers["x-request-id"])
    assert len(requests) == 6
    assert not any(b"/api/search" in path.read_bytes() for path in nginx.cached_files)


def test_assets_are_cached_and_the_page_and_the_document_are_not(nginx: Nginx, client: httpx.Client) -> None:
    page = client.get("/docs")
    assert (page.status_code, page.headers["cache-control"]) == (200, "no-cache")
    assert "x-cache" not in page.headers
    names = sorted(set(re.findall(r"docs-assets/[\w.-]+", page.text)))
    assert len(names) == 4
    for name in names:
        first, second, third = [client.get(f"/{name}{query}") for query in ("", "", f"?{secrets.token_hex(4)}")]
        assert first.status_code == second.status_code == 200
        assert [answer.headers["x-cache"] for answer in (first, second, third)] == ["MISS", "HIT", "HIT"], name
        assert second.content == first.content == third.content
        assert second.headers["cache-control"] == FOR_EVER
        # A cached answer does not bear the name of the request that filled the cache.
        assert len({answer.headers["x-request-id"] for answer in (first, second, third)}) == 3
    assert len(nginx.cached_files) == 4
    document = client.get("/openapi.json")
    assert (document.headers["cache-control"], "x-cache" in document.headers) == ("no-cache", False)
    again = client.get("/openapi.json", headers={"If-None-Match": document.headers["etag"]})
    assert again.status_code == 304, "compressing must not hide that nothing changed"


def test_what_is_missing_is_not_cached(nginx: Nginx, client: httpx.Client) -> None:
    before = len(nginx.cached_files)
    for _ in range(2):
        answer = client.get(f"/docs-assets/nothing-{'0' * 16}.js")
        error_of(answer, 404, "not_found")
        assert answer.headers["x-cache"] == "MISS"
    assert len(nginx.cached_files) == before


def test_text_is_compressed_for_who_can_read_it(client: httpx.Client) -> None:
    body = {"SELF_ID": fresh_user(), "N_VIDEOS": 24}
    with client.stream("POST", "/api/search/total", json=body, headers={"Accept-Encoding": "gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    plain = gzip.decompress(raw)
    assert len(json.loads(plain)["body"]["items"]) == 24
    assert len(raw) < len(plain) / 3
    plain_answer = client.post(
        "/api/search/total", json={"SELF_ID": fresh_user()}, headers={"Accept-Encoding": "identity"}
    )
    assert "content-encoding" not in plain_answer.headers


def test_a_body_that_is_too_large_is_refused_as_the_service_does_it(service: Service, client: httpx.Client) -> None:
    too_large = b" " * (LARGEST_BODY_BYTES + 1)
    headers = {"Content-Type": "application/json"}
    by_nginx = client.post("/api/search/total", content=too_large, headers=headers)
    by_service = service.client.post("/api/search/total", content=too_large, headers=headers)
    assert error_of(by_nginx, 413, "body_too_large") == error_of(by_service, 413, "body_too_large")
    in_chunks = client.post("/api/search/total", content=iter([too_large[:700_000]] * 2), headers=headers)
    error_of(in_chunks, 413, "body_too_large")


def test_a_page_of_a_named_origin_may_read_what_nginx_answers_by_itself(start_nginx: StartNginx) -> None:
    origin = "https://app.example.com"
    [line] = re.findall(r"# (.*\(\?<recs_origin>.*)", CONFIGURATION)
    changes = {f"# {line}": line}
    with (
        start_nginx(changes, service_port=free_port()).client() as nobody_there,
        start_nginx(changes).client() as client,
    ):
        unreachable, too_large, by_service = (
            there.post("/api/search/total", content=content, headers={"Origin": origin})
            for there, content in (
                (nobody_there, b"{}"), (client, b" " * (LARGEST_BODY_BYTES + 1)), (client, b'{"N_VIDEOS": 0}'),
            )
        )  # fmt: skip
        another = nobody_there.post("/api/search/total", content=b"{}", headers={"Origin": "https://app.example.com.x"})
    assert (unreachable.status_code, too_large.status_code, by_service.status_code) == (503, 413, 422)
    for answer in (unreachable, too_large):
        assert answer.headers.get_list("access-control-allow-origin") == [origin]
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert "Origin" in answer.headers["vary"]
    assert int(unreachable.headers["retry-after"]) >= 1
    assert "retry-after" in unreachable.headers["access-control-expose-headers"]
    for answer in (by_service, another):  # the service speaks for itself, and has no such origin here
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_body_of_just_the_limit_reaches_the_service(client: httpx.Client) -> None:
    text = json.dumps({"SELF_ID": fresh_user(), "N_VIDEOS": 2}).encode()
    body = text + b" " * (LARGEST_BODY_BYTES - len(text))
    answer = client.post("/api/search/total", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text


def test_errors_of_the_service_pass_as_they_are(client: httpx.Client) -> None:
    answer = client.post("/api/search/total", json={"N_VIDEOS": 0})
    assert answer.status_code == 422
    assert answer.json()["error"]["details"][0]["field"] == "N_VIDEOS"
    error_of(client.get("/nothing/here"), 404, "not_found")
    error_of(client.get("/api/search/total"), 405, "method_not_allowed")


def test_where_the_service_is_down_the_answer_says_when_to_come_back(start_nginx: StartNginx) -> None:
    with start_nginx(service_port=free_port()).client() as client:
        for path in ("/api/search/total", "/docs-assets/swagger-ui.css", "/health"):
            answer = client.post(path, json={}) if path.startswith("/api") else client.get(path)
            error_of(answer, 503, "unavailable")
            assert answer.headers.get_list("retry-after") == ["2"]
            assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
            assert answer.headers["x-content-type-options"] == "nosniff"


def test_cached_assets_are_served_while_the_service_is_down(service: Service, start_nginx: StartNginx) -> None:
    port = free_port()
    nginx = start_nginx(service_port=port)
    with nginx.client() as client:
        relay = Relay(port, int(service.address.rpartition(":")[2]))
        with relay:
            [name, *_] = re.findall(r"docs-assets/[\w.-]+", client.get("/docs").text)
            assert client.get(f"/{name}").headers["x-cache"] == "MISS"
        error_of(client.get("/docs"), 503, "unavailable")
        answer = client.get(f"/{name}")
        assert (answer.status_code, answer.headers["x-cache"]) == (200, "HIT")


class Relay:
    """Hands connections of a port on to another one until it is closed: a service that can be taken away."""

    def __init__(self, port: int, target: int) -> None:
        self._listener = socket.create_server((LOOPBACK, port))
        self._target = target
        self._open: list[socket.socket] = [self._listener]
        self._pool = ThreadPoolExecutor()

    def __enter__(self) -> Relay:
        self._pool.submit(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for connection in list(self._open):
            with closing(connection):
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        self._pool.shutdown()

    def _accept(self) -> None:
        while True:
            try:
                taken, _ = self._listener.accept()
            except OSError:
                return
            onward = socket.create_connection((LOOPBACK, self._target))
            self._open += [taken, onward]
            self._pool.submit(self._copy, taken, onward)
            self._pool.submit(self._copy, onward, taken)

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return


@contextmanager
def hanging(service: Service) -> Iterator[None]:
    """Its workers stand still: connections open, and nothing answers."""
    workers = service.workers
    try:
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)


def test_a_service_that_hangs_is_given_up_in_time_and_what_comes_on_top_is_refused_at_once(
    service: Service, start_nginx: StartNginx
) -> None:
    nginx = start_nginx({"max_conns=1024": "max_conns=1", "proxy_read_timeout 10s;": "proxy_read_timeout 2s;"})
    with nginx.client() as client, nginx.client() as other, ThreadPoolExecutor(1) as pool:
        with hanging(service):
            waiting = pool.submit(client.post, "/api/search/total", json={"SELF_ID": fresh_user()})
            assert wait_until(lambda: connections_to(nginx.service_port, nginx.pid) > 0, PATIENCE_SECONDS)
            at_once = other.post("/api/search/total", json={"SELF_ID": fresh_user()})
            given_up = waiting.result()
        for answer in (at_once, given_up):
            error_of(answer, 503, "unavailable")
            assert answer.headers["retry-after"] == "2"
        # In the order of their ends: the second request did not wait for the first.
        assert wait_until(lambda: len(nginx.access_log) == 2, PATIENCE_SECONDS)
        assert [line["upstream_status"] for line in nginx.access_log] == ["502", "504"]


def connections_to(port: int, pid: int) -> int:
    """How many connections a process holds to a port of this machine."""
    wanted = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[2].rpartition(":")[2], 16) == port and fields[3] == "01":
            wanted.add(f"socket:[{fields[9]}]")
    held = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held += os.readlink(descriptor) in wanted
        except OSError:
            continue
    return held


def ports_towards(port: int) -> set[int]:
    """Ports of this machine that had a connection to a port of it, in whatever state."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    pairs = [tuple(int(address.rpartition(":")[2], 16) for address in line.split()[1:3]) for line in lines]
    return {own for own, other in pairs if other == port} | {other for own, other in pairs if own == port and other}


def test_connections_to_the_service_are_kept_open(start_nginx: StartNginx, service: Service) -> None:
    nginx = start_nginx()
    before = ports_towards(nginx.service_port)
    with nginx.client() as client:
        for _ in range(100):
            assert client.get("/health").status_code == 200
    # A closed connection stays in the kernel's list for a minute, as TIME_WAIT.
    assert len(ports_towards(nginx.service_port) - before) <= 2


def test_an_address_that_asks_too_often_is_told_so(start_nginx: StartNginx) -> None:
    nginx = start_nginx({"rate=100r/s": "rate=1r/m", "burst=200": "burst=2"})
    with nginx.client() as client, nginx.client("127.0.0.2") as neighbour:
        answers = [client.get("/health") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        error_of(answers[-1], 429, "too_many_requests")
        assert answers[-1].headers.get_list("retry-after") == ["1"]
        assert neighbour.get("/health").status_code == 200


def test_addresses_that_the_operator_names_are_not_limited(start_nginx: StartNginx) -> None:
    nginx = start_nginx({"rate=100r/s": "rate=1r/m", "burst=200": "burst=2", "# 10.0.0.0/8 0;": "127.0.0.1 0;"})
    with nginx.client() as client:
        assert {client.get("/health").status_code for _ in range(20)} == {200}


def test_an_address_may_not_hold_any_number_of_requests_open(service: Service, start_nginx: StartNginx) -> None:
    nginx = start_nginx({"limit_conn recs_connections 100;": "limit_conn recs_connections 1;"})
    with nginx.client() as client, nginx.client() as other, ThreadPoolExecutor(1) as pool:
        with hanging(service):
            waiting = pool.submit(client.post, "/api/search/total", json={"SELF_ID": fresh_user()})
            assert wait_until(lambda: connections_to(nginx.service_port, nginx.pid) > 0, PATIENCE_SECONDS)
            refused = other.get("/health")
        error_of(refused, 429, "too_many_requests")
        assert waiting.result().status_code == 200


def test_the_service_knows_a_clients_address_and_no_invented_one(nginx: Nginx) -> None:
    """An anonymous feed is limited by the address, which the service has from nginx."""
    with nginx.client("127.0.0.3") as first, nginx.client("127.0.0.4") as second:
        assert first.post("/api/search/total", json={}).status_code == 200
        for headers in ({}, {"X-Forwarded-For": "203.0.113.9"}, {"X-Real-IP": "203.0.113.9"}):
            again = first.post("/api/search/total", json={}, headers=headers)
            error_of(again, 429, "too_many_requests")
            # The service's own answer: it says by itself when to come back, and only once.
            [seconds] = again.headers.get_list("retry-after")
            assert int(seconds) > 2
        assert second.post("/api/search/total", json={}).status_code == 200


def test_metrics_are_for_the_machines_that_the_operator_names(client: httpx.Client, nginx: Nginx) -> None:
    assert client.get("/metrics").status_code == 200
    with nginx.client("127.0.0.2") as stranger:
        error_of(stranger.get("/metrics"), 403, "forbidden")
        assert stranger.get("/health").status_code == 200


def test_answers_bear_the_security_headers(client: httpx.Client) -> None:
    for path in ("/health", "/docs", "/nothing"):
        headers = client.get(path).headers
        assert headers["strict-transport-security"] == "max-age=31536000"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "server" not in headers or headers["server"] == "nginx", "no version is told"
    assert "script-src 'self'" in client.get("/docs").headers["content-security-policy"]
    assert "script-src" not in client.get("/health").headers["content-security-policy"]


def test_the_access_log_ties_a_request_to_the_services_own_name_for_it(nginx: Nginx, client: httpx.Client) -> None:
    secret = secrets.token_hex(8)
    answer = client.post(
        f"/api/search/total?key={secret}",
        json={"SELF_ID": fresh_user()},
        headers={"Authorization": f"Bearer {secret}"},
    )
    wanted = answer.headers["x-request-id"]

    def lines() -> list[dict[str, Any]]:
        return [line for line in nginx.access_log if line["request_id"] == wanted]

    assert wait_until(lambda: len(lines()) == 1, PATIENCE_SECONDS)
    [line] = lines()
    assert (line["path"], line["status"], line["method"]) == ("/api/search/total", 200, "POST")
    assert line["tls"] in {"TLSv1.2", "TLSv1.3"}
    assert secret not in (nginx.folder / "access.log").read_text()


def test_plain_http_is_sent_on_to_our_own_name(nginx: Nginx) -> None:
    answer = httpx.post(
        f"http://{LOOPBACK}:{nginx.plain_port}/api/search/total?a=1", headers={"Host": "somebody.example"}
    )
    assert (answer.status_code, answer.headers["location"]) == (308, f"https://{NAME}/api/search/total?a=1")


def handshake(nginx: Nginx, name: str, **limits: Any) -> ssl.SSLSocket:
    context = nginx.tls_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.set_ciphers("ALL:@SECLEVEL=0")  # what is refused must be refused by nginx
    for limit, value in limits.items():
        setattr(context, limit, value)
    connection = socket.create_connection((LOOPBACK, nginx.port), PATIENCE_SECONDS)
    try:
        return context.wrap_socket(connection, server_hostname=name)
    except BaseException:
        connection.close()
        raise


def test_http_2_is_spoken_over_modern_tls(nginx: Nginx) -> None:
    with handshake(nginx, NAME) as connection:
        assert connection.version() == "TLSv1.3"
        assert connection.selected_alpn_protocol() == "h2"
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
        frame = connection.recv(9)
        assert frame[3] == 4, "the first frame is SETTINGS (RFC 9113, 3.4)"
    with handshake(nginx, NAME, maximum_version=ssl.TLSVersion.TLSv1_2) as connection:
        cipher = connection.cipher()
        assert cipher is not None
        assert cipher[0].startswith("ECDHE-")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_old_tls_and_other_names_get_no_handshake(nginx: Nginx) -> None:
    with pytest.raises(ssl.SSLError, match="unrecognized name"):
        handshake(nginx, "somebody.example").close()
    with pytest.raises(ssl.SSLError):
        handshake(nginx, NAME, minimum_version=ssl.TLSVersion.TLSv1_1, maximum_version=ssl.TLSVersion.TLSv1_1).close()


def test_a_request_with_an_endless_header_is_refused_in_the_services_form(client: httpx.Client) -> None:
    answer = client.get("/health", headers={"X-Long": "x" * 40_000})
    error_of(answer, 400, "bad_request")
