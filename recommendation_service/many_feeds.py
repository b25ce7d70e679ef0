"""`recs feed --users`: feeds of many users at once, as whoever sends e-mails needs them.

Without ``--record`` they are made here, from the current catalog and beside what this machine remembers of each user,
and nothing of them stays. With it a running service makes them by the thousand, since what is shown has to be in its
memory and its log.
"""

import http.client
import json
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from recommendation_service.api.batches import Line, read_lines, rendered
from recommendation_service.api.named_feeds import NamedFeed
from recommendation_service.bootstrap import named_feeds
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.errors import ConfigurationError, ServiceError, SourceError
from recommendation_service.core.service_address import service_address
from recommendation_service.editors.store import RulingsStore
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.loading import load_kernels
from recommendation_service.feed.request import FeedRequest
from recommendation_service.memory.entries import user_key
from recommendation_service.memory.user_memory import MemoryFailed, UserMemory, opened
from recommendation_service.policies.choice import PolicyChoice
from recommendation_service.ranking.seen import session_number
from recommendation_service.serving.preview import Preview
from recommendation_service.sources.mapping.mapping import load_mapping

LINES_AT_ONCE = 1000  # of one call of the service
TIMEOUT_SECONDS = 120.0  # without a byte
ATTEMPTS, LONGEST_PAUSE_SECONDS = 30, 5.0
WRONG_LINES = 1  # exit status


class _Tally:
    """What is printed, and of bad lines said."""

    def __init__(self, as_json: bool, tell: Callable[[int], None]) -> None:
        self._as_json = as_json
        self._tell = tell
        self.feeds = self.bad = 0

    def take(self, line: bytes) -> None:
        content = json.loads(line)
        if "error" in content:
            self.bad += 1
            error = content["error"]
            said = "; ".join(f"{one['field']} {one['problem']}" for one in error["details"]) or error["message"]
            typer.secho(f"line {content['line']}: {said}", fg=typer.colors.YELLOW, err=True)
        else:
            self.feeds += 1
        if self._as_json:
            sys.stdout.write(line.decode())
        elif "error" not in content:
            sys.stdout.write(f"{content['user']}\t{','.join(map(str, content['ids']))}\n")
        self._tell(self.feeds + self.bad)


def feeds_of_many(
    source: str, feed: str | None, size: int | None, language: str, *, record: bool, url: str | None, as_json: bool
) -> int:
    """``source``: a file, or - for standard input. ``language``: of the reasons of lines that ask for them. The exit
    status: 1 where a line was bad, which ends nothing."""
    if url is not None and not record:
        raise typer.BadParameter("goes with --record: without it feeds are made here", param_hint="--url")
    settings = load_settings()
    named = named_feeds(load_mapping(settings.mapping_file) if settings.mapping_file is not None else None)
    wanted = next((one for one in named.feeds if one.name == feed), None) if feed is not None else named.feeds[0]
    if wanted is None:
        names = ", ".join(one.name for one in named.feeds)
        raise typer.BadParameter(f"{feed!r} is not one of {names}", param_hint="--endpoint")
    with ExitStack() as stack:
        file, lines = _opened(stack, source)
        tally = _Tally(as_json, stack.enter_context(_progress(lines)))
        if record:
            _Service(settings, url, wanted, size, language).feeds(file, tally)
        else:
            _made_here(settings, read_lines(file, wanted, named.forms, size, language), wanted, tally)
    wrong = f", {tally.bad:,} bad line{'s' * (tally.bad > 1)}" if tally.bad else ""
    typer.echo(f"{tally.feeds:,} feeds{wrong}", err=True)
    return WRONG_LINES if tally.bad else 0


def _opened(stack: ExitStack, source: str) -> tuple[IO[bytes], int | None]:
    """The lines, and how many there are; None of standard input."""
    if source == "-":
        return sys.stdin.buffer, None
    with Path(source).open("rb") as counted:
        lines = sum(1 for line in counted if line.strip())
    return stack.enter_context(Path(source).open("rb")), lines


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Feeds", total=total)
        yield lambda done: progress.update(task, completed=done)


def _made_here(settings: Settings, lines: Iterable[Line], feed: NamedFeed, tally: _Tally) -> None:
    store = CatalogStore(settings.catalog_dir, settings.catalog_keep, settings.item_time_zone)
    version = store.named()
    load_kernels()
    now = int(time.time())
    held = RulingsStore(settings.editors_dir).read()[0].in_force(now)
    named = PolicyChoice(settings).take_up()
    named.policy.demand_feed(feed.name)
    generation = Generation(store.open(version), named.policy, rulings=held)
    preview = Preview(generation.with_arms(named.experiment, named.arms), settings)
    with ExitStack() as stack:
        memory = None
        if settings.seen_state and settings.seen_dir.is_dir():
            try:
                memory = stack.enter_context(opened(settings.seen_dir, settings.seen_megabytes << 20))
            except MemoryFailed as error:
                raise SourceError(f"What users have seen cannot be read: {error}.") from error
        for line in lines:
            tally.take(rendered(line, _one(line, feed, preview, memory, now)))


def _one(line: Line, feed: NamedFeed, preview: Preview, memory: UserMemory | None, now: int) -> bytes | ServiceError:
    asked = line.asked
    if isinstance(asked, ServiceError):
        return asked
    session = session_number(asked.session_id)
    request = FeedRequest(
        feed.name,
        asked.user_id,
        asked.size,
        secrets.token_hex(16),
        asked.excluded,
        asked.explain,
        now=now,
        session=session,
        personal=asked.personal,
        language=asked.language,
        filters=asked.filters,
        by_name=True,
    )
    key = user_key(asked.user_id, session)
    return preview.feed(request, memory.read(key) if memory is not None and key is not None else b"")


class _BrokenOff(Exception):
    """The connection ended within an answer, or there was none."""


class _Service:
    """A running one, that shows what it makes."""

    def __init__(self, settings: Settings, url: str | None, feed: NamedFeed, size: int | None, language: str) -> None:
        if settings.admin_token is None:
            raise ConfigurationError(["ADMIN_TOKEN is unset: a service makes feeds of many for administrators alone"])
        try:
            parts = service_address(url if url is not None else f"http://127.0.0.1:{settings.api_port}")
        except ValueError:
            said = f"{url} is no address: write http://127.0.0.1:5005"
            raise typer.BadParameter(said, param_hint="--url") from None
        self._url = f"{parts.scheme}://{parts.netloc}"
        connection = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = connection(str(parts.hostname), parts.port, timeout=TIMEOUT_SECONDS)
        query = {"record": "true"} | ({"size": str(size)} if size is not None else {})
        prefix = parts.path.rstrip("/") or settings.api_path
        self._path = f"{prefix}/feeds/{feed.name}/batch?{urlencode(query)}"
        self._headers = {
            "Authorization": f"Bearer {settings.admin_token.get_secret_value()}",
            "Content-Type": "application/x-ndjson",
            "Accept-Language": language,
        }

    def feeds(self, file: Iterable[bytes], tally: _Tally) -> None:
        """Raises SourceError where the service is not there, or refuses."""
        numbers: list[int] = []
        lines: list[bytes] = []
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    numbers.append(number)
                    lines.append(line.strip())
                if len(lines) == LINES_AT_ONCE:
                    self._some(numbers, lines, tally)
                    numbers, lines = [], []
            if lines:
                self._some(numbers, lines, tally)
        finally:
            self._connection.close()

    def _some(self, numbers: list[int], lines: list[bytes], tally: _Tally) -> None:
        done, why = 0, ""
        try:
            for line in self._asked(b"\n".join(lines)):
                try:
                    content = json.loads(line)
                    content["line"] = numbers[content["line"] - 1]
                    written = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
                except (ValueError, LookupError, TypeError):
                    raise SourceError(f"{self._url} answers 200, and no feeds: is it this service?") from None
                tally.take(written + b"\n")
                done += 1
        except _BrokenOff as error:
            why = f": {error}"
        if done < len(lines):
            raise SourceError(
                f"{self._url} broke off at line {numbers[done]}{why}. What is printed was shown; of the next it may "
                "have recorded some. Go on from there."
            )

    def _asked(self, body: bytes) -> Iterator[bytes]:
        """The lines of the answer. Raises _BrokenOff; SourceError where the service refuses."""
        for _ in range(ATTEMPTS):
            try:
                self._connection.request("POST", self._path, body, self._headers)
                response = self._connection.getresponse()
                if response.status == http.client.OK:
                    while line := response.readline():
                        yield line
                    return
                answer = json.loads(response.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._connection.close()
                raise _BrokenOff(error) from None
            if response.status not in {http.client.TOO_MANY_REQUESTS, http.client.SERVICE_UNAVAILABLE}:
                raise SourceError(f"{self._url} answered {response.status}: {_said(answer)}")
            seconds = response.getheader("Retry-After") or "1"
            time.sleep(min(float(seconds) if seconds.isdigit() else 1.0, LONGEST_PAUSE_SECONDS))
        raise SourceError(f"{self._url} is busy: {_said(answer)}")


def _said(answer: Any) -> str:
    try:
        error = answer["error"]
        return "; ".join([error["message"], *(f"{one['field']} {one['problem']}" for one in error["details"])])
    except (LookupError, TypeError):
        return "that is no error of this service"
