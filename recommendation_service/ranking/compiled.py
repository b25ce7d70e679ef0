"""One way to compile a kernel, and a cache of machine code that cannot go stale.

Numba's disk cache looks only at the file of the function that is called, not at the files of the
functions it calls, so an edit in one stage would leave old machine code in another. The cache
therefore lives in a folder named after all kernel sources together: other sources, other folder. Within it nothing goes
by the path of the sources, as with Numba's own places: two checkouts of one version share it.
"""

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar, cast

import numba
import numpy as np
from numba.core.registry import CPUDispatcher

# Where an array is asked at a place that comes from memory: a signed number might be negative, which Python counts from
# the end, so kernels would look at its sign each time.
Place = np.uint64

P = ParamSpec("P")
R = TypeVar("R")

_PACKAGE = Path(__file__).resolve().parent.parent
_KERNEL_SOURCES = ("ranking/*.py", "model/*.py")


@cache
def kernel_folder() -> Path:
    """Where compiled kernels are kept: ``NUMBA_CACHE_DIR``, else the user's cache folder, else one in the system's
    folder for temporary files that all of the user's processes find, which lasts until the machine starts anew."""
    name = f"kernels-{_digest()}"
    named = os.environ.get("NUMBA_CACHE_DIR")
    root = named or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "recommendation-service"
    )
    folder = Path(root) / name
    if _can_be_used(folder):
        return folder
    # A read-only home, or none; machine code is run, so nobody else may be able to put some there.
    folder = Path(tempfile.gettempdir()) / f"recommendation-service-kernels-{os.geteuid()}" / name
    with contextlib.suppress(OSError):
        folder.parent.mkdir(mode=0o755)  # whatever the user's umask lets others do with parents made along the way
    if _can_be_used(folder) and _is_ours_alone(folder.parent) and _is_ours_alone(folder):
        return folder
    return Path(tempfile.mkdtemp(prefix="recommendation-service-kernels-"))


def _digest() -> str:
    digest = hashlib.sha256()
    for pattern in _KERNEL_SOURCES:
        for source in sorted(_PACKAGE.glob(pattern)):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _can_be_used(folder: Path) -> bool:
    """Whether it can be written, or has been filled by somebody who could: an image that is mounted read-only."""
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        try:
            return any(folder.glob("compiled-*"))
        except OSError:
            return False
    return True


def _is_ours_alone(folder: Path) -> bool:
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


class KernelLocator:
    """Tells Numba where a kernel's machine code is; one of its cache locators."""

    def __init__(self, function: Any, source: str) -> None:
        self._folder = kernel_folder() / Path(source).parent.name
        self._line = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function: Any, source: str) -> Self | None:
        return cls(function, source) if Path(source).resolve().is_relative_to(_PACKAGE) else None

    def ensure_cache_path(self) -> None:
        self._folder.mkdir(exist_ok=True)

    def get_cache_path(self) -> str:
        # Asked for when a kernel is declared; a folder that cannot be written has what is read from it.
        if not self._folder.is_dir():
            self.ensure_cache_path()
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return kernel_folder().name  # the folder's name says which sources these are

    def get_disambiguator(self) -> str:
        return str(self._line)


_config: Any = numba.config
_config.CACHE_LOCATOR_CLASSES = f"{__name__}.{KernelLocator.__name__},UserWideCacheLocator"
_jit: Any = numba.njit  # its stub does not know _nrt
_typeof: Any = numba.typeof
# Numba gives each function a way in from Python and one from C, parts that are inlined too. They take tuples of eighty
# arrays to pieces, and were more than half of what there was to compile: only what Python calls has a way in from it.
_MACHINE_CODE: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False, "no_cfunc_wrapper": True}


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` as machine code. Division by zero gives inf or nan, as in NumPy; no fast-math, so
    that the slow oracle of the tests and the kernel add up alike.

    Kernels neither make arrays nor keep them, so Numba's counting of references is off: with it, each
    use of an array took two atomic operations, and a feed four times as long.
    """
    return cast("Callable[P, R]", _jit(cache=True, **_MACHINE_CODE)(function))


def part(function: Callable[P, R]) -> Callable[P, R]:
    """A part of kernels that is called and not inlined, since several need it or it is large. Not for Python."""
    return _not_for_python(_jit(cache=True, no_cpython_wrapper=True, **_MACHINE_CODE)(function))


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """A part of kernels, always inlined into its callers. Not for Python.

    A tuple of arrays is handed to a function as hundreds of words, seven for each array; a call inside a
    loop would cost more than what it computes.
    """
    return _not_for_python(_jit(forceinline=True, no_cpython_wrapper=True, **_MACHINE_CODE)(function))


def fused(function: Callable[P, R]) -> Callable[P, R]:
    """Inlined, with multiplications and the additions after them as one instruction, where the machine has such a one:
    half as many, each rounded once and not twice. For scores, of which a last bit decides nothing."""
    return _not_for_python(
        _jit(forceinline=True, no_cpython_wrapper=True, fastmath={"contract"}, **_MACHINE_CODE)(function)
    )


def summed(function: Callable[P, R]) -> Callable[P, R]:
    """Inlined, with sums added up in any order: the machine then adds several numbers at once. Where an order decides
    nothing."""
    loosely = {"contract", "reassoc", "nsz"}
    return _not_for_python(_jit(forceinline=True, no_cpython_wrapper=True, fastmath=loosely, **_MACHINE_CODE)(function))


class _Part(CPUDispatcher):
    """A function without a way in from Python. A call from there would end the process, if Numba came to it."""

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"{self.py_func.__name__} is a part of kernels: Python has no way in")


def _not_for_python(dispatcher: Any) -> Any:
    dispatcher.__class__ = _Part
    return dispatcher


def entry_for(function: Callable[P, R], *arguments: Any) -> Callable[P, R]:
    """The machine code of a compiled ``function`` for the types of just these arguments.

    A call through Numba looks up the type of every array first, which with eighty of them takes 10 µs; a
    call of the entry takes 2. Nothing is checked: every later argument must have the same type.
    """
    forms = tuple(form_of(argument) for argument in arguments)
    found = _entries.get((function, forms))
    if found is None:
        dispatcher: Any = function
        found = dispatcher.compile(tuple(_typeof(argument) for argument in arguments))
        _entries[function, forms] = found
    return cast("Callable[P, R]", found)


# Numba makes the types of all arrays anew to find what there is: a millisecond for a catalog, policy and memory.
_entries: dict[tuple[Any, tuple[Any, ...]], Any] = {}


def form_of(argument: Any) -> Any:
    """What is the same of arguments just where Numba's type of them is; of a tuple, of all that it has."""
    if isinstance(argument, np.ndarray):
        return type(argument), argument.dtype, argument.ndim, argument.flags.num
    if isinstance(argument, tuple):
        return (type(argument), *map(form_of, argument))
    return _typeof(argument)
