"""What a machine's first start has to do before feeds can be served. The process answers meanwhile: it is alive."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from recommendation_service.feed.compilation import compile_apart, kernels_are_compiled
from recommendation_service.serving.generation import Serving

log = structlog.get_logger(__name__)

COMPILING, SOURCE = "compiling", "source"  # what feeds may have to wait for: keys of Serving.waiting


async def take_up_or_compile(serving: Serving) -> list[Coroutine[Any, Any, None]]:
    """Take up the current catalog where this machine has the machine code; else what there is to do until it has."""
    if kernels_are_compiled():
        await serving.take_up_current()
        return []
    serving.waiting[COMPILING] = "The ranking is being compiled for this machine (once)."
    return [_compile(serving)]


async def _compile(serving: Serving) -> None:
    def told(done: int, of: int) -> None:
        reason = f"The ranking is being compiled for this machine (once): {done} of {of} kernels are done."
        if serving.waiting.get(COMPILING) != reason:
            serving.waiting[COMPILING] = reason
            log.info("compiling the ranking for this machine", kernels=done, of=of)

    await in_thread(lambda: compile_apart(told))
    if not kernels_are_compiled():
        log.error("the ranking could not be compiled by processes of its own: this one does it, and is slow meanwhile")
    del serving.waiting[COMPILING]


async def make_source(serving: Serving, make: Callable[[], None], made: asyncio.Event) -> None:
    """Have the database made before anything reads it."""
    serving.waiting[SOURCE] = "The demo's database is being made."
    try:
        await in_thread(make)
    except Exception as error:
        log.exception("the demo's database could not be made")
        serving.waiting[SOURCE] = f"The demo's database could not be made: {error}"
    else:
        del serving.waiting[SOURCE]
        made.set()


async def after(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    try:
        await event.wait()
    except asyncio.CancelledError:
        work.close()
        raise
    await work


async def in_thread(call: Callable[[], None]) -> None:
    """Not in a thread of the event loop's: a stop would wait for that one to end, and this may take minutes."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def answer(error: Exception | None) -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(None)

    def run() -> None:
        error = None
        try:
            call()
        except Exception as caught:  # noqa: BLE001 - it is raised again where it is awaited
            error = caught
        if not loop.is_closed():
            loop.call_soon_threadsafe(answer, error)

    threading.Thread(target=run, daemon=True).start()
    await done
