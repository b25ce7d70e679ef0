"""The way back from the numbers that records, keys and columns have of an operator's text ids, to these ids.

A text's number is the same in every catalog, so whichever still has it tells it. The names of kinds that a later policy
version added are told by the versions that are kept.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import CatalogError, PolicyError
from recommendation_service.model.item_keys import CREATOR, item_key, unpack
from recommendation_service.model.kinds import KINDS, kind_name
from recommendation_service.model.words import CREATOR_TYPE, FIRST_WORDS, Words
from recommendation_service.policies.store import PolicyStore

Id = int | str | None  # None: it is text, and none of the catalogs has it any more

# Ids that are remembered, so that a million feeds' need not each be searched for.
_MOST_KNOWN = 1 << 18


class Dictionary:
    """``catalogs``: those that are asked, in this order, each only once those before it did not know."""

    def __init__(self, words: Words = FIRST_WORDS, catalogs: Iterable[Catalog] = ()) -> None:
        self.words = words
        self.untold: set[int] = set()  # keys of items and numbers of users that were asked for and told as None
        self._asked: list[Catalog] = []
        self._others = iter(catalogs)
        self._known: dict[tuple[bool, int], str | None] = {}

    def item(self, key: int) -> Id:
        """Of an item or a creator."""
        item_type, number = unpack(key)
        if not self._is_text(item_type):
            return number
        return self._told((False, key), lambda catalog: catalog.id_of_key(key))

    def creator(self, number: int) -> Id:
        return self.item(item_key(CREATOR, number))

    def user(self, number: int) -> Id:
        """Of anonymous people 0."""
        if not number or not self.words.users_are_text:
            return number
        return self._told((True, number), lambda catalog: catalog.id_of_user(number))

    def _is_text(self, item_type: int) -> bool:
        """Of a type that the mapping has no more nobody knows: its numbers may be those of texts."""
        words = self.words
        name = words.type_name(item_type)
        return name in words.text_types or (bool(words.text_types) and name not in {*words.types, CREATOR_TYPE})

    def _told(self, what: tuple[bool, int], ask: Callable[[Catalog], Id]) -> str | None:
        if what not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            answers = (ask(catalog) for catalog in self._catalogs())
            self._known[what] = next((one for one in answers if isinstance(one, str)), None)
        found = self._known[what]
        if found is None:
            self.untold.add(what[1])
        return found

    def _catalogs(self) -> Iterator[Catalog]:
        yield from self._asked
        for catalog in self._others:
            self._asked.append(catalog)
            yield catalog


def open_dictionary(settings: Settings, words: Words) -> Dictionary:
    """Of all catalogs that are kept here, the newest first. Opens none before it is asked."""
    return KeptDictionary(settings, words).now()


class KeptDictionary:
    """The same for whoever goes on while catalogs are built, and policy versions published."""

    def __init__(self, settings: Settings, words: Words) -> None:
        self._store = CatalogStore(settings.catalog_dir, settings.catalog_keep, settings.item_time_zone)
        self._policies = PolicyStore(settings.policy_dir, settings.policy_keep)
        self._words = words
        self._newest: tuple[str | None, list[str]] | None = None
        self._dictionary: Dictionary | None = None

    def now(self) -> Dictionary:
        """Another one only when another catalog, or policy version, was published."""
        newest = self._store.current(), _versions(self._policies)
        if self._dictionary is None or newest != self._newest:
            words = _with_kinds(self._words, self._policies, newest[1])
            self._newest, self._dictionary = newest, Dictionary(words, _kept(self._store))
        return self._dictionary


def _versions(store: CatalogStore | PolicyStore) -> list[str]:
    try:
        return store.versions()
    except OSError:  # it may not be looked into
        return []


def _with_kinds(words: Words, store: PolicyStore, versions: list[str]) -> Words:
    """With those kinds beside the mapping's own that a version names, the latest first."""
    names = {number: name for name, number in words.kinds.items()}
    for version in reversed(versions):
        try:
            kinds = store.manifest(version)["kinds"]
        except PolicyError:  # removed meanwhile, damaged, or of another release
            continue
        for number, name in enumerate(kinds[len(KINDS) :], len(KINDS)):
            if name != kind_name(number) and name not in names.values():
                names.setdefault(number, name)
    return replace(words, kinds={name: number for number, name in names.items()})


def _kept(store: CatalogStore) -> Iterator[Catalog]:
    for version in reversed(_versions(store)):
        try:
            yield store.open(version, verify=False)
        except CatalogError:  # removed meanwhile, damaged, or of another release
            continue
