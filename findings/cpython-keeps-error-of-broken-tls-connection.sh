#!/usr/bin/env bash
# Python's read on a healthy TLS connection raises the BrokenPipeError of another connection, which broke before.
#
# Versions:  Python 3.13.5 of Debian 13 with OpenSSL 3.5, after CPython's issue 127257. Not so: Python 3.11.7 and 3.13.0,
#   each with OpenSSL 3.0. CPython's issue 148594 asks for a mend.
# One would guess: an error belongs to the socket that it befell; with that socket closed, it is over.
# What happens: an error that OpenSSL reports as the system's stays in the thread's queue. The next read or write on any
#   other TLS socket of the thread that has a time-out and would only have had to wait finds it there, and raises it. The
#   peer of that one is alive and would have answered. A call that empties the queue prevents it: a cipher list that is
#   refused.
# Needs root and debootstrap: Debian 13's Python is unpacked into a temporary folder.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf --one-file-system "$folder"' EXIT
debootstrap --variant=minbase --include=python3,openssl trixie "$folder/system" >"$folder/log" 2>&1 ||
    { tail -n 3 "$folder/log" && exit 1; }
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$folder/system/srv/key" -out "$folder/system/srv/certificate" \
    -days 2 -subj /CN=localhost 2>/dev/null

cat >"$folder/system/srv/peer.py" <<'PYTHON'
"""Answers each message a moment later."""

import socket
import ssl
import time

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/srv/certificate", "/srv/key")
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection = context.wrap_socket(listener.accept()[0], server_side=True)
while connection.recv(10):
    time.sleep(0.2)
    connection.sendall(b"answer")
PYTHON

cat >"$folder/system/srv/ask.py" <<'PYTHON'
import ssl
import socket
import subprocess
import sys
import time

context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE


def connected():
    peer = subprocess.Popen([sys.executable, "/srv/peer.py"], stdout=subprocess.PIPE, text=True)
    port = int(peer.stdout.readline())
    client = context.wrap_socket(socket.create_connection(("127.0.0.1", port)))
    client.settimeout(5)
    ask(client)
    return peer, client


def ask(client):
    try:
        client.sendall(b"question")
        return client.recv(10)
    except OSError as error:
        return repr(error)


def dies_beside(empties_queue):
    (dying, broken), (living, healthy) = connected(), connected()
    dying.kill()
    dying.wait()
    time.sleep(0.1)
    said = [ask(broken)]
    broken.close()
    if empties_queue:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers("none")
        except ssl.SSLError:
            pass
    said.append(ask(healthy))
    assert living.poll() is None
    living.kill()
    living.wait()
    return said


print(sys.version.split()[0], ssl.OPENSSL_VERSION.split()[1][:3])
print("the broken one, the healthy one:", *dies_beside(False))
print("with the queue emptied between:", *dies_beside(True))
PYTHON

output=$(chroot "$folder/system" /usr/bin/env -i PATH=/usr/bin python3 /srv/ask.py)
printf '%s\n' "$output"
grep -qx "3.13.5 3.5" <<<"$output"
grep -qx "the broken one, the healthy one: BrokenPipeError(32, 'Broken pipe') BrokenPipeError(32, 'Broken pipe')" <<<"$output"
grep -qx "with the queue emptied between: BrokenPipeError(32, 'Broken pipe') b'answer'" <<<"$output"
