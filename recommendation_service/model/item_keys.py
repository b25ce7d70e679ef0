"""Keys: what a person can have seen, done something to or hidden, as one number of 64 bits, the same in every catalog.

Log, memory, Redis, tables and kernels hand keys on and know nothing of what is in them: here alone they are made and
taken apart. A type is that of an event's ``item_type``.

- 0 to 2^63 - 1: an item of type 0 or 1: ``number << 1 | type``;
- -1 to -(2^62 - 1): a creator, who is type 2: the number's negative;
- -2^63 to -(2^62 + 1): an item of the types 3 to 258: 8 bits of the type, and below them 54 of the number.

The first two are how everything was stored before there were other types, and stay so. A text id is to be a number that
a dictionary gives it, of a type of its own.
"""

from typing import NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from recommendation_service.mappings.stored import ItemType

ITEM_TYPES: tuple[ItemType, ...] = get_args(ItemType)  # by their numbers
CREATOR = 2

_OWN = "type_"

LARGEST_ITEM = 2**62 - 1  # number of a type that has a name
LARGEST_TYPE = CREATOR + 2**8
_NUMBER_BITS = 54
LARGEST_OTHER = 2**_NUMBER_BITS - 1  # number of any other type
_OTHERS = -(2**63)
_CREATORS = -(2**62)

Int64 = npt.NDArray[np.int64]


class NamedItem(NamedTuple):
    """An item that somebody asks for."""

    type: int
    number: int
    id: int | str  # as the operator has it


def pack(item_type: int, number: int) -> int:
    """The key, unchecked: for kernels, of what a catalog holds."""
    if item_type < CREATOR:
        return number << 1 | item_type
    if item_type == CREATOR:
        return -number
    return _OTHERS + ((item_type - CREATOR - 1) << _NUMBER_BITS) + number


def unpack(key: int) -> tuple[int, int]:
    """(type, number)."""
    if key >= 0:
        return key & 1, key >> 1
    if key >= _CREATORS:
        return CREATOR, -key
    return (key >> _NUMBER_BITS & 0xFF) + CREATOR + 1, key & LARGEST_OTHER


def is_creator(key: int) -> bool:
    return _CREATORS < key < 0


def type_name(item_type: int) -> str:
    """As records are told to people. Raises IndexError for what no type bears."""
    if not 0 <= item_type <= LARGEST_TYPE:
        raise IndexError(f"there is no item type {item_type}")
    return ITEM_TYPES[item_type] if item_type <= CREATOR else f"{_OWN}{item_type}"


def type_of_name(name: str) -> int:
    """Of what ``type_name`` gave. Raises ValueError."""
    if name in ITEM_TYPES:
        return ITEM_TYPES.index(name)
    item_type = int(name.removeprefix(_OWN))
    if not CREATOR < item_type <= LARGEST_TYPE or name != f"{_OWN}{item_type}":
        raise ValueError(f"there is no item type {name!r}")
    return item_type


def item_key(item_type: int, number: int) -> int:
    """Raises ValueError for what no key can hold."""
    _check(item_type, number, number)
    return pack(item_type, number)


def item_keys(item_type: int, numbers: Int64) -> Int64:
    """(n,) of one type. Raises ValueError for what no key can hold."""
    if len(numbers):
        _check(item_type, int(numbers.min()), int(numbers.max()))
    if item_type < CREATOR:
        return numbers << 1 | item_type
    return -numbers if item_type == CREATOR else numbers + pack(item_type, 0)


def unpack_all(keys: Int64) -> tuple[Int64, Int64]:
    """(types, numbers), each (n,)."""
    named, creators = keys >= 0, (keys < 0) & (keys >= _CREATORS)
    types = np.where(named, keys & 1, np.where(creators, CREATOR, (keys >> _NUMBER_BITS & 0xFF) + CREATOR + 1))
    return types, np.where(named, keys >> 1, np.where(creators, -keys, keys & LARGEST_OTHER))


def _check(item_type: int, least: int, most: int) -> None:
    if not 0 <= item_type <= LARGEST_TYPE:
        raise ValueError(f"an item's type is from 0 to {LARGEST_TYPE}, and not {item_type}")
    smallest, largest = int(item_type == CREATOR), LARGEST_ITEM if item_type <= CREATOR else LARGEST_OTHER
    for number in (least, most):
        if not smallest <= number <= largest:
            raise ValueError(f"an id of item type {item_type} is from {smallest} to {largest}, and not {number}")
