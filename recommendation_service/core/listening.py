"""An address to listen on, and what is wrong with it where that cannot be, before a server says so in its own way.

python -m recommendation_service.core.listening     Gunicorn's: exit status 1 and a sentence
"""

import errno
import socket
import sys

from recommendation_service.core.config import load_settings
from recommendation_service.core.machine import listener_of

PRIVILEGED_BELOW = 1024


def bound(host: str, port: int) -> socket.socket:
    """A socket that has the address and does not listen yet. Raises OSError."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    one = socket.socket(family, kind, protocol)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(address)
    except OSError:
        one.close()
        raise
    return one


def why_not_bound(host: str, port: int, error: OSError) -> str:
    """A sentence without its end."""
    if error.errno == errno.EADDRINUSE:
        holder = listener_of(port)
        return f"port {port} is taken" + (f" by {holder.name} (process {holder.pid})" if holder else "")
    if error.errno == errno.EACCES and port < PRIVILEGED_BELOW:
        return f"port {port} is for root, as all below {PRIVILEGED_BELOW} are"
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine ({error.strerror})"
    return f"{host}:{port} cannot be listened on ({error.strerror})"


def main() -> int:
    host, separator, port = load_settings().gunicorn_bind.rpartition(":")
    if not separator or not port.isdecimal() or host in {"unix", "fd"}:
        return 0
    host = host.removeprefix("tcp://").strip("[]")
    try:
        bound(host, int(port)).close()
    except OSError as error:
        sys.stderr.write(f"{why_not_bound(host, int(port), error)}: name another address in GUNICORN_BIND\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
