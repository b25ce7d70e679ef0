"""Statements whose answers an event loop takes as they come, over a pool's connections to MySQL or MariaDB.

A thread that waits for an answer needs the interpreter for each piece of it, and has to take it from the event loop's
thread (docs/decisions/0066). The pool makes, checks, counts and takes back the connections; PyMySQL opens them and
writes values. What is said over them, and how it is read, is the protocol's part of a query in text:
https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query.html
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import lru_cache
from typing import Any

from pymysql.connections import Connection as DriverConnection
from pymysql.constants import COMMAND, FIELD_TYPE
from pymysql.converters import decoders
from pymysql.protocol import FieldDescriptorPacket
from sqlalchemy import TextClause
from sqlalchemy.engine import URL, Connection
from sqlalchemy.pool import QueuePool

Row = list[Any]

# Of an answer at once: a server sends no more before it waits.
PIECE_BYTES = 1 << 15
# Longer packets come in several, which are left to the driver.
MOST_PACKET_BYTES = (1 << 24) - 1
_HEAD_BYTES = 4  # of a packet: its length, and its number
_OK, _NULL, _END, _ERROR = 0x00, 0xFB, 0xFE, 0xFF
_LENGTH_BYTES = {0xFC: 2, 0xFD: 3, 0xFE: 8}  # of a length that is no single byte
_BINARY = 63  # no character set
_INTEGERS = {FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.INT24, FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG}
_TEXTS = {
    FIELD_TYPE.BLOB,
    FIELD_TYPE.LONG_BLOB,
    FIELD_TYPE.MEDIUM_BLOB,
    FIELD_TYPE.STRING,
    FIELD_TYPE.TINY_BLOB,
    FIELD_TYPE.VAR_STRING,
    FIELD_TYPE.VARCHAR,
}
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Lost(Exception):
    """There is no answer to be had: the connection is gone, or the server refuses, or says what is not read here."""


class Answer:
    """A result as it comes."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._packets: list[tuple[int, int]] = []  # where those that are whole begin, without their heads, and end
        self._at = 0
        self._ends = 0

    def __len__(self) -> int:
        return len(self._bytes)

    def take(self, piece: bytes) -> bool:
        """Whether it is whole. Raises Lost where it is no result."""
        content, at = self._bytes, self._at
        content += piece
        while at + _HEAD_BYTES <= len(content):
            length = int.from_bytes(content[at : at + 3], "little")
            begin, end = at + _HEAD_BYTES, at + _HEAD_BYTES + length
            if end > len(content):
                break
            if length in {0, MOST_PACKET_BYTES}:
                raise Lost("a packet that is not read here")
            kind = content[begin]
            if kind == _ERROR or (not self._packets and kind in {_OK, _NULL}):
                raise Lost(bytes(content[begin:end]).decode(errors="replace"))
            self._ends += kind == _END and length < 9  # longer: a column of as many bytes
            self._packets.append((begin, end))
            at = end
        self._at = at
        return self._ends == 2  # of the columns, and of the rows

    def rows(self) -> list[Row]:
        """As the driver gives them."""
        content, packets = bytes(self._bytes), self._packets
        columns = content[packets[0][0]]  # so few that a byte says it
        reads = _reads(content[packets[0][1] : packets[columns][1]])
        return [_row(content, begin, reads) for begin, _ in packets[columns + 2 : -1]]


def _row(content: bytes, at: int, reads: tuple[Callable[[bytes], Any], ...]) -> Row:
    row: Row = []
    for read in reads:
        length = content[at]
        at += 1
        if length == _NULL:
            row.append(None)
            continue
        if length > _NULL:
            end = at + _LENGTH_BYTES[length]
            length, at = int.from_bytes(content[at:end], "little"), end
        row.append(read(content[at : at + length]))
        at += length
    return row


@lru_cache(64)
def _reads(definitions: bytes) -> tuple[Callable[[bytes], Any], ...]:
    """By column, what makes a value of its bytes. ``definitions``: the columns' packets."""
    reads: list[Callable[[bytes], Any]] = []
    at = 0
    while at < len(definitions):
        begin = at + _HEAD_BYTES
        at = begin + int.from_bytes(definitions[at : at + 3], "little")
        column = FieldDescriptorPacket(definitions[begin:at], "utf8")
        if column.type_code in _INTEGERS:
            reads.append(int)
        elif column.type_code in _TEXTS and column.charsetnr == _BINARY:
            reads.append(bytes)
        else:
            reads.append(_decoded_by(decoders.get(column.type_code)))
    return tuple(reads)


def _decoded_by(convert: Callable[[str], Any] | None) -> Callable[[bytes], Any]:
    return bytes.decode if convert is None else lambda content: convert(content.decode())


class Exchanges:
    """One event loop's.

    ``connect`` gives a connection, of which each statement is a transaction of its own; it is called in ``threads``. A
    connection is held for ``held_seconds`` where the pool has more, so that statements that follow each other do not
    ask it. A server that has not answered after ``timeout_seconds`` is given up.
    """

    def __init__(
        self, connect: Callable[[], Connection], threads: Executor, *, held_seconds: float, timeout_seconds: float
    ) -> None:
        self._connect = connect
        self._threads = threads
        self._held_seconds = held_seconds
        self._timeout_seconds = timeout_seconds
        self._resting: list[_Held] = []
        self._asking: set[_Held] = set()
        self._texts: dict[TextClause, str] = {}

    @staticmethod
    def can_speak_to(url: URL) -> bool:
        return url.get_dialect().driver == "pymysql"

    async def ask(self, statement: TextClause, parameters: Mapping[str, Any]) -> Answer:
        """Raises SQLAlchemyError without a connection, TimeoutError, and Lost."""
        held = self._resting.pop() if self._resting else await self._take()
        self._asking.add(held)
        try:
            answer = await held.ask(self._said(held, statement, parameters), self._timeout_seconds)
        except BaseException:
            held.drop()
            raise
        finally:
            self._asking.discard(held)
        if held.may_rest():
            self._resting.append(held)
        else:
            held.give_back()
        return answer

    def close(self) -> None:
        """Who waits for an answer is cancelled. Waits for no server."""
        for held in [*self._resting, *self._asking]:
            held.drop()
        self._resting.clear()

    async def _take(self) -> "_Held":
        loop = asyncio.get_running_loop()
        connection = await loop.run_in_executor(self._threads, self._connect)
        held = _Held(connection, loop, loop.time() + self._held_seconds)
        loop.call_at(held.until, self._give_back_resting, held)
        return held

    def _give_back_resting(self, held: "_Held") -> None:
        if held in self._resting:
            self._resting.remove(held)
            held.give_back()

    def _said(self, held: "_Held", statement: TextClause, parameters: Mapping[str, Any]) -> bytes:
        text = self._texts.get(statement)
        if text is None:
            text = self._texts[statement] = str(statement.compile(dialect=held.connection.dialect))
        escape, encoders = held.driver.escape, held.driver.encoders
        return (text % {name: escape(value, encoders) for name, value in parameters.items()}).encode()


class _Held:
    """A connection that the pool has given out, and the statement that is asked over it."""

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop, until: float) -> None:
        driver = connection.connection.dbapi_connection
        assert isinstance(driver, DriverConnection)  # noqa: S101 - can_speak_to
        self.connection = connection
        self.driver = driver
        self.until = until
        self._loop = loop
        self._socket = driver._sock
        self._limit = self._socket.gettimeout()  # the driver's, who knows of no other
        self._socket.settimeout(0)
        self._unsent = b""
        self._answer = Answer()
        self._asked: asyncio.Future[Answer] | None = None
        self._is_lost = False
        loop.add_reader(self._socket, self._read)

    async def ask(self, statement: bytes, timeout_seconds: float) -> Answer:
        """Raises TimeoutError, and Lost."""
        if self._is_lost:
            raise Lost("the server has closed the connection")
        asked: asyncio.Future[Answer] = self._loop.create_future()
        self._answer, self._asked = Answer(), asked
        limit = self._loop.call_later(timeout_seconds, self._fail, TimeoutError(f"no answer in {timeout_seconds:g} s"))
        self._unsent = (len(statement) + 1).to_bytes(3, "little") + bytes((0, COMMAND.COM_QUERY)) + statement
        self._send()
        try:
            return await asked
        finally:
            limit.cancel()
            self._asked = None

    def may_rest(self) -> bool:
        """Whether others who want a connection find one meanwhile."""
        pool = self.connection.engine.pool
        return self._loop.time() < self.until and isinstance(pool, QueuePool) and pool.checkedout() < pool.size()

    def give_back(self) -> None:
        """To the pool. That is no round trip: there is no transaction to end."""
        if self._is_lost:
            self.drop()
            return
        self._loop.remove_reader(self._socket)
        self._socket.settimeout(self._limit)
        self.connection.close()

    def drop(self) -> None:
        """Without a round trip: the pool makes another one instead."""
        if self._asked is not None:
            self._asked.cancel()
        if not self.connection.closed:
            self._loop.remove_writer(self._socket)
            self._loop.remove_reader(self._socket)
            self.connection.invalidate()
            self.connection.close()

    def _send(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except _NOT_YET:
            self._loop.add_writer(self._socket, self._send)
            return
        except OSError as error:
            self._fail(Lost(str(error)))
        self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        try:
            while True:
                piece = self._socket.recv(PIECE_BYTES)
                if not piece or self._asked is None:
                    raise Lost("the server has closed the connection")
                if self._answer.take(piece):
                    break
        except _NOT_YET:
            return
        except (OSError, Lost) as error:
            self._fail(error if isinstance(error, Lost) else Lost(str(error)))
        else:
            if not self._asked.done():
                self._asked.set_result(self._answer)

    def _fail(self, error: Exception) -> None:
        self._is_lost = True
        self._loop.remove_reader(self._socket)
        if self._asked is not None and not self._asked.done():
            self._asked.set_exception(error)
