"""Somebody between the service and its database server, who lets not everything through."""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.servers import LOOPBACK


class NarrowProxy:
    """Between client and server: hangs up on a packet that is longer than ``most`` bytes."""

    def __init__(self, port: int, most: int) -> None:
        self.target = port
        self._most = most
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection((LOOPBACK, self.target)) as server, client.makefile("rb") as packets:
            answers = threading.Thread(target=self._forward, args=(server, client), daemon=True)
            answers.start()
            with contextlib.suppress(OSError):
                while header := packets.read(4):
                    length = int.from_bytes(header[:3], "little")
                    if length > self._most:
                        self.cuts += 1
                        break
                    server.sendall(header + packets.read(length))
                client.shutdown(socket.SHUT_RDWR)
                server.shutdown(socket.SHUT_RDWR)
            answers.join()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)


class LossyProxy:
    """Between client and server: the first COMMIT after ``cut_next_commit`` is carried out and its answer is lost."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        self.cut_next_commit = False
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.create_connection((LOOPBACK, self._server_port))
        with client, server:
            threading.Thread(target=self._forward, args=(server, client), daemon=True).start()
            while data := client.recv(1 << 16):
                # As MySQL's clients send it, and PostgreSQL's.
                if self.cut_next_commit and (data[4:] == b"\x03COMMIT" or b"COMMIT\x00" in data):
                    self.cut_next_commit = False
                    self.cuts += 1
                    with_own_eyes = socket.create_connection((LOOPBACK, self._server_port))  # the server still runs
                    with_own_eyes.close()
                    client.shutdown(socket.SHUT_RDWR)
                    server.sendall(data)
                    server.shutdown(socket.SHUT_WR)  # the server reads the COMMIT, and then that nobody is there
                    return
                server.sendall(data)

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
        except OSError:
            pass
