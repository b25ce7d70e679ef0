"""One way to compile a kernel, and a cache of machine code that cannot go stale.

Numba's disk cache looks only at the file of the function that is called, not at the files of the
functions it calls, so an edit in one stage would leave old machine code in another. The cache
therefore lives in a folder named after all kernel sources together: other sources, other folder.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")

_PACKAGE = Path(__file__).resolve().parent.parent
_KERNEL_SOURCES = ("ranking/*.py", "feed/s*.py", "catalog/layout.py")


def kernel_folder() -> Path:
    """Where compiled kernels are kept: ``NUMBA_CACHE_DIR``, else the user's cache folder."""
    digest = hashlib.sha256()
    for pattern in _KERNEL_SOURCES:
        for source in sorted(_PACKAGE.glob(pattern)):
            digest.update(source.read_bytes())
    root = os.environ.get("NUMBA_CACHE_DIR") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "recommendation-service"
    )
    return Path(root) / f"kernels-{digest.hexdigest()[:16]}"


def _writable_kernel_folder() -> str:
    folder = kernel_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        # A read-only home: compile anew at each start, unless NUMBA_CACHE_DIR names a better place.
        folder = Path(tempfile.mkdtemp(prefix="recommendation-service-kernels-"))
    return str(folder)


_config: Any = numba.config
_config.CACHE_DIR = _writable_kernel_folder()
_jit: Any = numba.njit  # its stub does not know _nrt
_typeof: Any = numba.typeof


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` as machine code. Division by zero gives inf or nan, as in NumPy; no fast-math, so
    that the slow oracle of the tests and the kernel add up alike.

    Kernels neither make arrays nor keep them, so Numba's counting of references is off: with it, each
    use of an array took two atomic operations, and a feed four times as long.
    """
    return cast("Callable[P, R]", _jit(cache=True, nogil=True, error_model="numpy", _nrt=False)(function))


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """A part of kernels, always inlined into its callers.

    A tuple of arrays is handed to a function as hundreds of words, seven for each array; a call inside a
    loop would cost more than what it computes.
    """
    return cast("Callable[P, R]", _jit(forceinline=True, nogil=True, error_model="numpy", _nrt=False)(function))


def entry_for(function: Callable[P, R], *arguments: Any) -> Callable[P, R]:
    """The machine code of a compiled ``function`` for the types of just these arguments.

    A call through Numba looks up the type of every array first, which with eighty of them takes 10 µs; a
    call of the entry takes 2. Nothing is checked: every later argument must have the same type.
    """
    dispatcher: Any = function
    return cast("Callable[P, R]", dispatcher.compile(tuple(_typeof(argument) for argument in arguments)))
