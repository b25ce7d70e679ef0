#!/usr/bin/env bash
# Handing a TLS session to a new connection in Python takes longer than making the connection's object without one.
#
# Versions:  CPython 3.11 to 3.13 with OpenSSL 3.0; trustme 1.2.1 makes the certificate.
# One would guess: a session is a handle, and `wrap_socket(session=...)` or `wrap_bio(session=...)` stores it; what
#   resuming costs comes in the handshake, and is little.
# What happens: the session is copied by writing it as ASN.1 and reading that again, the server's certificate in it
#   included, at each connection and at each look at `.session`: a hundred microseconds and more with an RSA
#   certificate, where the object alone takes five. Resuming still pays, but by less than the handshake says.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check trustme==1.2.1
cat >sessions.py <<'PYTHON'
import socket
import ssl
import statistics
import threading
import time

import trustme

authority = trustme.CA(key_type=trustme.KeyType.RSA)
served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
authority.issue_cert("localhost", key_type=trustme.KeyType.RSA).configure_cert(served)
asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
authority.configure_trust(asking)


def answer(plain):
    with served.wrap_socket(plain, server_side=True) as connection:
        connection.sendall(b"hello")
        connection.recv(1)


ours, theirs = socket.socketpair()
thread = threading.Thread(target=answer, args=(theirs,))
thread.start()
with asking.wrap_socket(ours, server_hostname="localhost") as connection:
    connection.recv(5)  # the server's tickets come before it
    session = connection.session
    connection.sendall(b"x")
thread.join()


def microseconds(make):
    taken = []
    for _ in range(500):
        started = time.thread_time_ns()
        make()
        taken.append(time.thread_time_ns() - started)
    return statistics.median(taken) / 1000


def made(session):
    asking.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost", session=session)


without, resumed = microseconds(lambda: made(None)), microseconds(lambda: made(session))
print(ssl.OPENSSL_VERSION)
print(f"a connection's object: {without:.0f} us; with a session: {resumed:.0f} us")
print("many times as long" if resumed > 5 * without else "alike")
PYTHON
output=$(venv/bin/python sessions.py)
printf '%s\n' "$output"
grep -q '^many times as long$' <<<"$output"
