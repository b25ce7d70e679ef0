"""Fixtures of tests that stay in their process."""

from __future__ import annotations

import functools
import os
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest


class _Hurried(sqlite3.Connection):
    """Waits for no disk, whatever it is told."""

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        if statement.startswith("PRAGMA synchronous"):
            statement = "PRAGMA synchronous = OFF"
        return super().execute(statement, *parameters)


@pytest.fixture(scope="session", autouse=True)
def files_need_not_outlive_a_power_failure() -> Iterator[None]:
    """Nor does a test notice whether the disk has them: it was a third of what some waited for. What is no open file
    is refused, as by the system."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, lambda descriptor: os.fstat(descriptor) and None)
        patch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=_Hurried))
        yield
