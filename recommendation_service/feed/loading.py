"""Having the kernels in a command, for a person who watches."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from recommendation_service.feed.compilation import compile_apart, kernels_are_compiled


def load_kernels() -> None:
    """Importing reads the machine code; the first time on a machine it is compiled, which takes a while."""
    if not kernels_are_compiled():
        with Progress(
            TextColumn("Compiling the ranking for this machine (once)"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        ) as bars:
            task = bars.add_task("ranking")
            compile_apart(lambda done, of: bars.update(task, completed=done, total=of))
