"""One bar over all that a command does, which says what is being done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def bar(console: Console) -> Iterator[Callable[[str, float], None]]:
    """Told what, and how much of all is done, 0 to 1."""
    with Progress(
        TextColumn("{task.description:>36}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bars:
        task = bars.add_task("", total=1.0)
        yield lambda what, done: bars.update(task, description=what, completed=done)
