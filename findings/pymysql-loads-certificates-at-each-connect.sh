#!/usr/bin/env bash
# PyMySQL reads every trusted certificate of the machine for each connection, also where TLS is neither asked for nor used.
#
# Versions:  PyMySQL 1.2.4.
# One would guess: without an `ssl` argument nothing of TLS is prepared until a server offers it; or once a process.
# What happens: each Connection makes an SSLContext with the default trust store, before it connects, over a Unix socket
#   too: milliseconds of processor time each. With one SSLContext handed in, none is made.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check pymysql==1.2.4
cat >count.py <<'PYTHON'
import ssl

import pymysql

CONNECTIONS = 5


def trust_stores_read(**options: object) -> int:
    """By how many connections' preparation; none of them is opened, so no server is needed."""
    read = 0
    original = ssl.SSLContext.load_default_certs

    def counted(context: ssl.SSLContext, *purpose: ssl.Purpose) -> None:
        nonlocal read
        read += 1
        original(context, *purpose)

    ssl.SSLContext.load_default_certs = counted
    try:
        for _ in range(CONNECTIONS):
            pymysql.connect(defer_connect=True, user="somebody", **options)
    finally:
        ssl.SSLContext.load_default_certs = original
    return read


print(f"of {CONNECTIONS} connections, trust stores read:")
print(f"to a host, without ssl: {trust_stores_read(host='127.0.0.1')}")
print(f"to a Unix socket: {trust_stores_read(unix_socket='/nowhere')}")
print(f"with one context for all: {trust_stores_read(host='127.0.0.1', ssl=ssl.create_default_context())}")
PYTHON
output=$(venv/bin/python count.py)
printf '%s\n' "$output"
grep -q '^to a host, without ssl: 5$' <<<"$output"
grep -q '^to a Unix socket: 5$' <<<"$output"
grep -q '^with one context for all: 0$' <<<"$output"
