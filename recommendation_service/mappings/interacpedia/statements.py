"""The SQL files beside this one."""

import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def sql(query: str) -> str:
    return (FOLDER / f"{query}.sql").read_text("utf-8")


@cache
def tables_read() -> tuple[str, ...]:
    """The tables that the queries read."""
    statements = (re.sub(r"--.*", "", path.read_text("utf-8")) for path in FOLDER.glob("*.sql"))
    return tuple(sorted({table for text in statements for table in re.findall(r"\b(?:FROM|JOIN)\s+(\w+)", text)}))
