"""The service with demo data, and the ways to it: straight, through nginx (as deploy/nginx has it) and HAProxy."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.end_to_end.service import Service, load_demo
from tests.integration.test_nginx import Nginx
from tests.servers import LOOPBACK, PrivateServer, find_program

# A user may ask once a second, so that a client that asks twice is told to wait.
SETTINGS = {"RATE_LIMIT_PER_USER": "1", "FLUSH_INTERVAL_SECONDS": "1"}
HOST = "localhost"  # which every client finds, and names in its handshake


class Way(NamedTuple):
    url: str
    certificate: Path | None  # that clients have to trust


class PlainNginx(PrivateServer):
    """What most people write: a proxy_pass, without TLS, over HTTP/1.1."""

    name = "nginx"

    def __init__(self, folder: Path, service_port: int) -> None:
        super().__init__(folder)
        self._service_port = service_port

    def prepare(self) -> None:
        pass

    def command(self) -> list[str]:
        paths = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(
            f"daemon off;\nmaster_process off;\npid {self.folder}/nginx.pid;\nerror_log {self.log_path} warn;\n"
            f"events {{}}\nhttp {{\n{paths}access_log off;\nclient_max_body_size 4m;\n"
            f"server {{ listen {LOOPBACK}:{self.port};\nlocation / {{ proxy_pass http://{LOOPBACK}:{self._service_port};\n"
            "proxy_http_version 1.1;\n"
            "proxy_set_header Connection $http_connection;\nproxy_set_header Upgrade $http_upgrade;\n"
            "} } }\n"
        )
        program = find_program("nginx", "nginx-light")
        return [program, "-e", str(self.log_path), "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")]

    def answers(self, timeout_seconds: float = 1.0) -> bool:
        return listens(self.port, timeout_seconds)


class Haproxy(PrivateServer):
    name = "haproxy"

    def __init__(self, folder: Path, service_port: int) -> None:
        super().__init__(folder)
        self._service_port = service_port

    def prepare(self) -> None:
        pass

    def command(self) -> list[str]:
        (self.folder / "haproxy.cfg").write_text(
            "defaults\n    mode http\n    timeout connect 5s\n    timeout client 30s\n    timeout server 30s\n"
            f"frontend clients\n    bind {LOOPBACK}:{self.port}\n    default_backend service\n"
            f"backend service\n    server one {LOOPBACK}:{self._service_port}\n"
        )
        return [find_program("haproxy", "haproxy"), "-db", "-f", str(self.folder / "haproxy.cfg")]

    def answers(self, timeout_seconds: float = 1.0) -> bool:
        return listens(self.port, timeout_seconds)


def listens(port: int, timeout_seconds: float) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout_seconds).close()
    except OSError:
        return False
    return True


@contextmanager
def ways(folder: Path) -> Iterator[dict[str, Way]]:
    """Everything runs until the block ends."""
    load_demo(folder / "service")
    with ExitStack() as stack:
        service = stack.enter_context(Service.gunicorn(folder / "service", 2, SETTINGS))
        service.wait_until_ready()
        service_port = int(service.address.rpartition(":")[2])
        nginx = Nginx(folder / "nginx", service_port, {}, HOST)
        plain, haproxy = PlainNginx(folder / "plain", service_port), Haproxy(folder / "haproxy", service_port)
        for server in (nginx, plain, haproxy):
            server.start()
            stack.callback(server.stop)
        yield {
            "straight": Way(service.address, None),
            "nginx, TLS": Way(f"https://{HOST}:{nginx.port}", folder / "nginx" / "tls" / "certificate.pem"),
            "nginx": Way(f"http://{LOOPBACK}:{plain.port}", None),
            "HAProxy": Way(f"http://{LOOPBACK}:{haproxy.port}", None),
        }
