"""A catalog, a policy and a working memory, handed to kernels by one address.

Together they are a hundred and forty arrays. Numba takes every array that Python hands over to pieces again at each
call, which took as long as a stage of a feed; and from kernel to kernel each goes as seven words. So the pieces are
written down once, and a kernel reads what it needs of them.
"""

import hashlib
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numba.core.imputils
import numba.core.typing.templates
import numba.extending
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types

from recommendation_service.model.columns import CatalogArrays
from recommendation_service.model.policy_arrays import PolicyArrays
from recommendation_service.ranking.compiled import compiled, entry_for, form_of
from recommendation_service.ranking.working_memory import WorkingMemory

PARTS = ("catalog", "policy", "memory")
WORD = 8  # bytes, to which each piece is aligned
_POINTER = ir.IntType(8).as_pointer()

extending: Any = numba.extending  # the stubs do not know how these are used
lower_getattr: Any = numba.core.imputils.lower_getattr
AttributeTemplate: Any = numba.core.typing.templates.AttributeTemplate
typeof: Any = extending.typeof_impl


class Frame:
    """In Python the three themselves; in a kernel the same three, read from ``address``. Holds what kernels see."""

    def __init__(self, catalog: CatalogArrays, policy: PolicyArrays, memory: WorkingMemory) -> None:
        self.catalog = catalog
        self.policy = policy
        self.memory = memory

    def with_others(self, catalog: CatalogArrays, policy: PolicyArrays, memory: WorkingMemory) -> "Frame":
        """Of the same types. To look these up again takes a millisecond, which is much beside a feed."""
        frame = Frame(catalog, policy, memory)
        frame._write = self._write
        return frame

    @cached_property
    def _write(self) -> Callable[..., int]:
        return entry_for(_write_down, 0, self.catalog, self.policy, self.memory)

    @cached_property
    def address(self) -> int:
        parts = (self.catalog, self.policy, self.memory)
        self._native = np.zeros(self._write(0, *parts), np.uint8)
        place: int = self._native.ctypes.data
        self._write(place, *parts)
        return place

    @cached_property
    def numba_type(self) -> "FrameType":
        parts = (self.catalog, self.policy, self.memory)
        forms = tuple(form_of(part) for part in parts)
        if forms not in _types:
            _types[forms] = FrameType(*(typeof(part, None) for part in parts))
        return _types[forms]


class FrameType(types.Type):
    """To kernels the address, and the types of what is there."""

    def __init__(self, catalog: Any, policy: Any, memory: Any) -> None:
        self.catalog = catalog
        self.policy = policy
        self.memory = memory
        # The names of these types have thousands of letters, and would be part of each kernel's.
        digest = hashlib.sha256(repr((catalog, policy, memory)).encode()).hexdigest()[:16]
        super().__init__(name=f"Frame({digest})")


_types: dict[tuple[Any, ...], FrameType] = {}  # by the forms of the three
extending.register_model(FrameType)(extending.models.OpaqueModel)


@typeof.register(Frame)  # type: ignore[untyped-decorator]
def _type_of_frame(frame: Frame, _context: Any) -> Any:
    return frame.numba_type


@extending.unbox(FrameType)  # type: ignore[untyped-decorator]
def _address_of(_type: Any, frame: Any, c: Any) -> Any:
    address = c.pyapi.object_getattr_string(frame, "address")
    pointer = c.pyapi.long_as_voidptr(address)
    c.pyapi.decref(address)
    return extending.NativeValue(pointer)


@extending.infer_getattr
class _Parts(AttributeTemplate):  # type: ignore[misc]
    key = FrameType

    def generic_resolve(self, frame: Any, name: str) -> Any:
        return getattr(frame, name) if name in PARTS else None


def _reader(name: str) -> None:
    @lower_getattr(FrameType, name)  # type: ignore[untyped-decorator]
    def read(context: Any, builder: Any, frame: Any, pointer: Any) -> Any:
        place = sum(_size(context, getattr(frame, before)) for before in PARTS[: PARTS.index(name)])
        return _read(context, builder, getattr(frame, name), pointer, place)


for _name in PARTS:
    _reader(_name)


def _is_tuple(kind: Any) -> bool:
    return isinstance(kind, types.BaseTuple)


def _size(context: Any, kind: Any) -> int:
    """Bytes of all pieces of a part."""
    if _is_tuple(kind):
        return sum(_size(context, each) for each in kind.types)
    return -(-context.get_abi_sizeof(context.get_value_type(kind)) // WORD) * WORD


def _at(context: Any, builder: Any, kind: Any, pointer: Any, place: int) -> Any:
    there = builder.gep(pointer, [ir.Constant(ir.IntType(64), place)])
    return builder.bitcast(there, context.get_value_type(kind).as_pointer())


def _read(context: Any, builder: Any, kind: Any, pointer: Any, place: int) -> Any:
    """Piece by piece: what a kernel does not use is then not read."""
    if not _is_tuple(kind):
        return builder.load(_at(context, builder, kind, pointer, place))
    values = []
    for each in kind.types:
        values.append(_read(context, builder, each, pointer, place))
        place += _size(context, each)
    return context.make_tuple(builder, kind, values)


def _write(context: Any, builder: Any, kind: Any, value: Any, pointer: Any, place: int) -> int:
    """The place behind it."""
    if not _is_tuple(kind):
        builder.store(value, _at(context, builder, kind, pointer, place))
        return place + _size(context, kind)
    for i, each in enumerate(kind.types):
        place = _write(context, builder, each, builder.extract_value(value, i), pointer, place)
    return place


@extending.intrinsic  # type: ignore[untyped-decorator]
def _written(_typing: Any, address: Any, catalog: Any, policy: Any, memory: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer, place = builder.inttoptr(arguments[0], _POINTER), 0
        is_there = builder.icmp_unsigned("!=", arguments[0], ir.Constant(arguments[0].type, 0))
        with builder.if_then(is_there):
            for kind, value in zip((catalog, policy, memory), arguments[1:], strict=True):
                place = _write(context, builder, kind, value, pointer, place)
        return ir.Constant(ir.IntType(64), place)

    return types.int64(address, catalog, policy, memory), generate


@compiled
def _write_down(address: int, catalog: CatalogArrays, policy: PolicyArrays, memory: WorkingMemory) -> int:
    """The bytes that it takes; none are written to address 0."""
    size: int = _written(address, catalog, policy, memory)
    return size
