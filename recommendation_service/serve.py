"""`recs serve`: one process, for trying out and developing, which listens at once and says what it is at."""

import contextlib
import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from recommendation_service.core.config import Settings, load_settings, origins_of
from recommendation_service.core.errors import CatalogError, SourceError
from recommendation_service.core.holding import hold
from recommendation_service.core.listening import bound, why_not_bound

if TYPE_CHECKING:
    from recommendation_service.serving.generation import Serving

LOOK_SECONDS = 0.1
# The demo learns, in times that one can watch; elsewhere whoever wants that says so.
LEARNING_TO_WATCH = {
    "learner": "shadow",
    "learn_publish_seconds": "30",
    "learning_file": str(Path(__file__).with_name("demo") / "learning.toml"),
}
# And promotes what is better, unless somebody says how it learns, or what is served.
PROMOTING_TO_WATCH = {"learn_promotion": "gated", "learn_trial_feeds": "8000", "learn_live_share": "0.3"}
BACKLOG = 2048


def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind. Default: API_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to bind. Default: API_PORT.")] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Where no database is named, build and serve the embedded demo.")
    ] = False,
) -> None:
    """Serve in one process, for trying out and developing. In production: scripts/start_production.sh.

    On a terminal only warnings are logged, for people; into a pipe or file, everything in JSON. LOG_LEVEL and
    LOG_FORMAT say otherwise.

    \b
    $ recs serve --demo --host 127.0.0.1
    $ MYSQL_HOST=db.internal MYSQL_USER=recs MYSQL_PASSWORD=… recs serve
    """
    settings = load_settings()
    defaults = {"log_format": "console", "log_level": "warning"} if sys.stderr.isatty() else {}
    origins = origins_of(settings)
    if demo and settings.source_url.get_backend_name() == "sqlite":
        defaults |= LEARNING_TO_WATCH
        if origins["learner"] == "default" and settings.policy_file is None:
            defaults |= PROMOTING_TO_WATCH
    for name, value in defaults.items():
        if origins[name] == "default":
            os.environ[name.upper()] = value  # for the processes that this one starts, too
    settings = load_settings()
    host, port = host or settings.api_host, port or settings.api_port
    try:
        listening = bound(host, port)
    except OSError as error:
        remedy = "name another with PORT= and HOST= (recs serve: --port, --host)"
        typer.echo(f"Error: {why_not_bound(host, port, error)}: {remedy}.", err=True)
        raise typer.Exit(1) from None
    with contextlib.suppress(OSError):  # a folder that may not be written to is said by /ready
        hold(settings.data_dir, settings.data_dir_wait_seconds)  # until this process ends
    listening.listen(BACKLOG)  # so that whoever comes while the rest is loaded waits, and is not refused

    import uvicorn

    from recommendation_service.bootstrap import create_app
    from recommendation_service.server.protocol import DoorProtocol

    shown = "127.0.0.1" if host in {"0.0.0.0", "::"} else f"[{host}]" if ":" in host else host  # noqa: S104
    display = Display(settings, f"http://{shown}:{port}")
    app = create_app(settings, _demo_to_make(settings, display) if demo else None)
    configuration = uvicorn.Config(
        app,
        loop="uvloop",
        http=DoorProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.gunicorn_keepalive,
        timeout_graceful_shutdown=settings.gunicorn_graceful_timeout,
    )
    server = uvicorn.Server(configuration)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # until here nothing has to be undone: see entry.py
    threading.Thread(target=display.show, args=(app.state.serving, server), daemon=True).start()
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        display.end()
    display.say("stopped")


class Display:
    """What a person who started it sees: bars while a first start is at work, then how to ask for a feed."""

    def __init__(self, settings: Settings, address: str) -> None:
        self._settings = settings
        self._address = address
        self._console = Console(stderr=True)
        self._bars = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description:>18}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._said = ""

    def advance(self, what: str, done: int, of: int) -> None:
        """Of a table of the demo, or of the kernels."""
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=of)
            self._bars.start()
        self._bars.update(self._tasks[what], completed=done, total=max(done, of))

    def say(self, sentence: str) -> None:
        """Above the bars; where there are none, on standard output, since standard error has the log."""
        if self._console.is_terminal:
            self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)
        else:
            typer.echo(sentence)
            sys.stdout.flush()

    def end(self) -> None:
        self._bars.stop()

    def show(self, serving: "Serving", server: "object") -> None:
        """Until feeds can be served; then the first steps. Runs in a thread of its own."""
        from recommendation_service.feed.compilation import progress

        while not getattr(server, "started", False):
            time.sleep(LOOK_SECONDS)
        if serving.catalog is None:
            self.say(f"Listening on {self._address} (Ctrl-C stops). Not ready for feeds yet:")
        compiling = False
        while serving.catalog is None:
            if "compiling" in serving.waiting:
                compiling = True
                self.advance("ranking", *progress())
            elif compiling:
                compiling = False
                _, of = progress()
                self.advance("ranking", of, of)
            self._say_reason(serving.why_not_ready())
            time.sleep(LOOK_SECONDS)
        self.end()
        self._print_first_steps(serving)

    def _say_reason(self, reason: str) -> None:
        """Each once; where there are bars, those of a first start are told by them."""
        if reason != self._said and not (self._console.is_terminal and self._tasks):
            self.say(reason)
        self._said = reason

    def _print_first_steps(self, serving: "Serving") -> None:
        key = ' -H "Authorization: Bearer $API_KEY"' if self._settings.api_keys else ""
        typer.echo(f"Serving on {self._address} (Ctrl-C stops). Documentation: {self._address}/docs\n")
        if self._settings.mapping_file is not None:
            name = next(iter(serving.policy.file.feeds))
            typer.echo(
                f"  curl -s {self._address}{self._settings.api_path}/feeds/{name} "
                f"-H 'Content-Type: application/json'{key} "
                "-d '{\"size\": 5}'\n"
            )
            return
        from recommendation_service.mappings.forms import example_body

        typer.echo(
            f"  curl -s {self._address}{self._settings.api_path}/search/total -H 'Content-Type: application/json'{key} "
            f"-d '{example_body(_some_user(serving))}'\n"
        )
        if self._settings.learner != "off":
            typer.echo(
                "It learns from what people do. Invented people, and what was learned from them:\n\n"
                f"  .venv/bin/recs demo users {self._address}\n  .venv/bin/recs policy list\n"
            )
        sys.stdout.flush()


def _some_user(serving: "Serving") -> int:
    """Somebody with a past, so that the first feed is a personal one; 0 where nobody has any."""
    import numpy as np

    catalog = serving.catalog
    if catalog is None or len(catalog.arrays.user_id) == 0:
        return 0
    lengths = np.diff(catalog.arrays.history_offsets)
    row = int(np.argmax(lengths >= min(5, int(lengths.max()))))
    return int(catalog.arrays.user_id[row]) if lengths[row] else 0


def _demo_to_make(settings: Settings, display: Display) -> Callable[[], None] | None:
    """What makes the embedded database where it is missing."""
    url = settings.source_url
    if url.get_backend_name() != "sqlite" or not url.database or Path(url.database).exists():
        return None
    path = Path(url.database)
    return lambda: _make_demo(path, settings, display)


def _make_demo(path: Path, settings: Settings, display: Display) -> None:
    from sqlalchemy import NullPool, create_engine

    from recommendation_service.catalog.commands import publish_catalog
    from recommendation_service.demo import load_invented

    path.parent.mkdir(parents=True, exist_ok=True)
    # Under another name until it is whole, so that an interrupted build is not taken for one.
    unfinished = path.with_name(f"{path.name}.building")
    with open(path.with_name(f"{path.name}.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            display.say(f"Another process is making the demo's database {path}: waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            display.say(f"Making the demo's database {path} (once).")
            for left in path.parent.glob(f"{unfinished.name}*"):
                left.unlink()
            engine = create_engine(f"sqlite:///{unfinished}", poolclass=NullPool)
            try:
                load_invented(engine, progress=display.advance)
            finally:
                engine.dispose()
            unfinished.rename(path)
            _own(settings)
    if not settings.catalog_refresher:  # which builds the first catalog as soon as it is started
        try:
            publish_catalog(settings, Console(stderr=True, quiet=True))
        except (SourceError, CatalogError) as error:
            logging.getLogger(__name__).warning("no catalog yet: %s", error)


def _own(settings: Settings) -> None:
    """A folder whose embedded database was removed belongs to the new one."""
    from recommendation_service.core.place import adopt, make_identity
    from recommendation_service.flush.tables import make_writing_engine

    engine = make_writing_engine(settings)
    make_identity(engine)
    adopt(settings, engine)
    engine.dispose()
