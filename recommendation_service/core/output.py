"""What commands print: for people a table as wide as the terminal, for programs a line for each row, whole."""

from collections.abc import Collection, Iterable, Sequence

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_rows(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    right: Collection[int] = (),
    whole: Collection[int] = (0,),
) -> None:
    """Nothing is cut: on a terminal long cells wrap, and those of the columns ``whole`` stay in one piece where there
    is room; into a pipe or file each row is one line, with at least two spaces between its cells.

    ``right``: columns of numbers. Headings may all be empty.
    """
    lines = [[str(cell) for cell in row] for row in rows]
    console = Console()
    if not console.is_terminal:
        print_plainly([headings, *lines] if any(headings) else lines, title, right)
        return
    table = Table(title=escape(title) or None, title_justify="left", show_header=any(headings))
    for number, heading in enumerate(headings):
        longest = max((len(part) for line in lines for part in line[number].split("\n")), default=0)
        fits = number in whole and longest < console.width // 2
        table.add_column(
            heading,
            justify="right" if number in right else "left",
            overflow="fold",
            min_width=longest if fits else None,
        )
    for line in lines:
        table.add_row(*map(escape, line))
    console.print(table)


def print_plainly(rows: Sequence[Sequence[str]], title: str = "", right: Collection[int] = ()) -> None:
    """A line for each row; what is a line break within a cell is a blank."""
    flat = [[" ".join(cell.split()) for cell in row] for row in rows]
    if title:
        typer.echo(title)
    widths = [max(len(row[number]) for row in flat) for number in range(len(flat[0]))] if flat else []
    for row in flat:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        typer.echo("  ".join(cells).rstrip())
