"""Tests in processes that fork when all is collected (``-p tests.forks --forks 3``): what each worker of pytest-xdist
imports and collects for itself is there once.

For `tests/unit` only: what talks to servers or starts threads while it is imported must not be forked, and what
`tests/side_by_side.py` says of tests that run alone is not looked at. A file is one process's, which takes the next one
at its end.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from itertools import groupby
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any

import pytest

_FORKS = multiprocessing.get_context("fork")
_NUMBER = 2  # bytes
_APART = 12


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--forks", type=int, default=0, metavar="N", help="Processes that share the run; 0: none.")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    option = session.config.option
    if option.forks < 1 or option.collectonly or session.testsfailed or not session.items:
        return None  # pytest's own says what is to be said
    if option.usepdb or session.config.getoption("numprocesses", None) is not None:
        return None  # in one process, or as `-n` says
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # theirs are in it
    left = {item.nodeid: item for item in session.items}
    while left:  # once, unless a process is killed: others go on with what it had taken
        before = len(left)
        _share(session, left)
        if len(left) == before:
            raise RuntimeError("Processes end before their first test.")
    return True


def _share(session: pytest.Session, left: dict[str, pytest.Item]) -> None:
    """Runs what is left, in as many processes as are asked for, and takes out of it what was told."""
    files = [list(items) for _, items in groupby(left.values(), lambda item: item.nodeid.partition("::")[0])]
    # Those of a folder wait for the same things: side by side, they would leave processors idle.
    files = [file for first in range(_APART) for file in files[first::_APART]]
    # Two bytes are read whole or not at all, so that the pipe hands each file to one process.
    queue, numbers = os.pipe()
    os.write(numbers, b"".join(number.to_bytes(_NUMBER, "big") for number in range(len(files))))
    os.close(numbers)
    children: dict[Connection, ForkProcess] = {}
    try:
        for _ in range(min(session.config.option.forks, len(files))):
            reading, writing = _FORKS.Pipe(duplex=False)
            child = _FORKS.Process(target=_work, args=(session, files, queue, writing))
            child.start()
            writing.close()
            children[reading] = child
        _report(session, children, left)
    finally:
        for child in children.values():
            child.terminate()
            child.join()
        os.close(queue)


def _report(session: pytest.Session, children: dict[Connection, ForkProcess], left: dict[str, pytest.Item]) -> None:
    """What the children say is said here as if it had happened here."""
    hook, config = session.config.hook, session.config
    last: dict[Connection, pytest.Item] = {}
    open_ = set(children)
    while open_:
        for connection in wait(open_):
            assert isinstance(connection, Connection)
            try:
                nodeid, reports = connection.recv()
            except EOFError:
                open_.remove(connection)
                children[connection].join()
                item, code = last.get(connection), children[connection].exitcode
                if item is not None and (code or item.nodeid in left):
                    left.pop(item.nodeid, None)
                    what = f"The process that ran this test last ended with {code}."
                    report = pytest.TestReport(item.nodeid, item.location, {}, "failed", what, "call")
                    hook.pytest_runtest_logreport(report=report)
                continue
            if reports is None:
                item = last[connection] = left[nodeid]
                hook.pytest_runtest_logstart(nodeid=nodeid, location=item.location)
                continue
            for data in reports:
                report = hook.pytest_report_from_serializable(config=config, data=data)
                hook.pytest_runtest_logreport(report=report)
            hook.pytest_runtest_logfinish(nodeid=nodeid, location=left.pop(nodeid).location)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)


class _Sender:
    """In a child, in the place of what writes to the terminal."""

    def __init__(self, config: pytest.Config, connection: Connection) -> None:
        self._config, self._connection = config, connection
        self._reports: list[dict[str, Any]] = []
        self._tw = config.get_terminal_writer()  # by which what differs in an assertion is coloured

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._connection.send((nodeid, None))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._connection.send((nodeid, self._reports))
        self._reports = []


def _work(session: pytest.Session, files: list[list[pytest.Item]], queue: int, connection: Connection) -> None:
    config = session.config
    terminal = config.pluginmanager.getplugin("terminalreporter")
    sender = _Sender(config, connection)
    config.pluginmanager.unregister(terminal)
    config.pluginmanager.register(sender, "terminalreporter")
    # What is captured goes into a file, and each needs one of its own.
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    capture.stop_global_capturing()
    capture.start_global_capturing()
    factory: Any = config._tmp_path_factory  # type: ignore[attr-defined]
    factory._basetemp = factory.getbasetemp() / f"fork-{os.getpid()}"
    factory._basetemp.mkdir(0o700)
    config.option.forked = True
    items = _handed_out(files, queue)
    item = next(items, None)
    with suppress(KeyboardInterrupt):  # the parent is interrupted, too, and says so
        while item is not None:
            following = _Following(items)
            config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            item = following.item
    config._ensure_unconfigure()  # what was left behind and only now is found is an error, as in any other run


class _Following:
    """The test after one that runs, as pytest asks for it: what it shares with that one is not torn down. It is looked
    for only then, so that no file waits for a test that takes long while another process has nothing to do."""

    def __init__(self, items: Iterator[pytest.Item]) -> None:
        self._items = items

    @cached_property
    def item(self) -> pytest.Item | None:
        """None: it was the last."""
        return next(self._items, None)

    def listchain(self) -> list[Any]:
        return self.item.listchain() if self.item is not None else []


def _handed_out(files: list[list[pytest.Item]], queue: int) -> Iterator[pytest.Item]:
    while number := os.read(queue, _NUMBER):
        yield from files[int.from_bytes(number, "big")]
