"""Policy versions on disk: the policy file, and what was learned; which one is served, and who decided that.

CURRENT names the version to serve, and while there is a PINNED, that one is served whatever CURRENT names. SHADOWS
names those that are loaded beside, EXPERIMENT has the experiment that runs: then people's feeds are made by its arms.
Every change is made under one lock, compared with what the caller took for the current version, and written down first.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from recommendation_service.core.errors import ConfigurationError, PolicyError
from recommendation_service.core.files import locked, make_folder, write_whole
from recommendation_service.policies import evidence, experiment_files
from recommendation_service.policies.experiment import END, Ended, Experiment, about
from recommendation_service.policies.journal import FILE as JOURNAL
from recommendation_service.policies.journal import Deed, Entry, Journal, entry_of
from recommendation_service.policies.policy import Learned, Policy, learned_problems, parse_policy
from recommendation_service.versions.store import CURRENT, NewVersion, VersionStore

PINNED = "PINNED"
SHADOWS = "SHADOWS"
CHANGE_LOCK = "change.lock"
NO_VERSION = "none"  # what is expected where the store has no current version
MOST_SHADOWS = 4
BY_LEARNER = "recs learn"  # who published what was learned; any other is a person's
POLICY = "policy.toml"
_THETA, _PRECISION, _TEMPERATURE = "theta", "A", "temperature"


class Served(NamedTuple):
    """What the files name."""

    current: str | None
    pinned: str | None
    shadows: tuple[str, ...]
    experiment: Experiment | None = None

    @property
    def named(self) -> list[str]:
        arms = self.experiment.versions if self.experiment is not None else []
        return [version for version in (self.current, self.pinned, *self.shadows, *arms) if version is not None]


NOTHING_SERVED = Served(None, None, ())


class Fleet(Protocol):
    """Other machines, that serve the same. All of it under the lock of changes; each raises PolicyError."""

    def follow(self, store: "PolicyStore") -> None:
        """Have the store serve what they do."""

    def agree(self, store: "PolicyStore", entries: list[Entry], served: Served, new: list[str]) -> None:
        """Before a change is made here: it is theirs, too. ``new``: versions that they do not have."""

    def noted(self, store: "PolicyStore") -> None:
        """After it was."""


class PolicyStore(VersionStore):
    """The folder of policy versions."""

    what = "policy"
    error = PolicyError
    layout = 1
    needed = (POLICY,)

    def __init__(self, folder: Path, keep: int, fleet: Fleet | None = None) -> None:
        """``fleet``: for whoever changes anything; None: there is none, or nothing will be changed."""
        super().__init__(folder, keep)
        self._fleet = fleet
        self.journal = Journal(folder / JOURNAL)

    def current(self) -> str | None:
        """The version to serve: the pinned one, or else the one that CURRENT names."""
        return self.pinned() or super().current()

    def pinned(self) -> str | None:
        return self.pointer(PINNED)

    def shadows(self) -> tuple[str, ...]:
        """Versions that are loaded beside what is served."""
        try:
            return tuple((self.folder / SHADOWS).read_text("ascii").split()[:MOST_SHADOWS])
        except (OSError, UnicodeDecodeError):
            return ()

    def experiment(self) -> Experiment | None:
        """The one that runs."""
        return experiment_files.running(self.folder)

    def named_experiment(self) -> tuple[Experiment | None, str | None]:
        """The one that runs; or why nobody knows which does."""
        return experiment_files.read(self.folder)

    def ended_experiments(self) -> list[Ended]:
        """Oldest first."""
        return experiment_files.ended(self.folder)

    def served(self) -> Served:
        return Served(self.pointer(CURRENT), self.pinned(), self.shadows(), self.experiment())

    def open(self, version: str) -> Policy:
        """Raises PolicyError where it is missing, damaged, of another layout, or of other kinds or features."""
        manifest = self.check(version)
        folder, files = self.folder / version, manifest["files"]
        try:
            file = parse_policy((folder / POLICY).read_bytes(), f"policy version {version}")
            problems = []
            for what, ours in (("kinds", file.kind_names), ("features", file.feature_names)):
                theirs = manifest.get(what)
                if theirs != list(ours):
                    problems.append(f"its {what} are {theirs}, and this program's {list(ours)}")
            if problems:
                raise PolicyError(f"policy version {version} cannot be served: {'; '.join(problems)}")
            if f"{_THETA}.npy" not in files:
                return Policy(file, version=version)
            names = [name for name in (_THETA, _PRECISION, _TEMPERATURE) if f"{name}.npy" in files]
            learned = Learned(*(np.load(folder / f"{name}.npy", allow_pickle=False) for name in names))
            if problems := learned_problems(learned, file):
                raise PolicyError(f"policy version {version} cannot be served: {'; '.join(problems)}")
            return Policy(file, *learned, version)
        except ConfigurationError as error:
            raise PolicyError("; ".join(error.problems)) from error
        except (OSError, ValueError) as error:
            raise PolicyError(f"policy version {version} cannot be read: {error}") from error

    def verify(self, version: str) -> list[str]:
        """What is wrong with a version, its policy file and its arrays included; empty where nothing is."""
        problems = super().verify(version)
        if not problems:
            try:
                self.open(version)
            except PolicyError as error:
                problems = [str(error)]
        return problems

    def named(self, version: str | None = None) -> str:
        """``version``, or else the current one, for a command. Raises PolicyError where there is none."""
        version = version or self.current()
        if version is None:
            self.versions()
            raise PolicyError(f"No policy version in {self.folder}: `recs policy publish` makes one.")
        return version

    # Changes. Each raises PolicyError, and leaves what is served as it was.

    def publish(
        self,
        content: bytes,
        learned: Learned | None,
        deed: Deed,
        expect: str | None = None,
        *,
        aside: bool = False,
        until_now: bytes | None = None,
    ) -> str:
        """Keep a version of a policy file and what was learned under it, and serve it.

        ``aside``: it is only kept. So it is while another is pinned, or an experiment runs. ``until_now``: the file
        that is served before there is a version; it becomes the first, so that there is one to go back to. Raises
        ConfigurationError with every problem of the file.
        """
        policy = Policy(parse_policy(content, "policy file"))
        if learned is not None and (problems := learned_problems(learned, policy.file)):
            raise PolicyError(f"What was learned cannot be served: {'; '.join(problems)}.")
        with self.changing(expect) as before:
            here = set(self.versions())
            served, entries, new = before, [], []
            try:
                if served is None and until_now is not None and not aside:
                    served, entry = self.add_first(until_now, deed)
                    new.append(served)
                    entries.append(entry)
                version = self._add(content, policy, learned, deed)
                new.append(version)
                if not aside and self.pinned() is None and self.experiment() is None:
                    entries.append(entry_of(deed, "publish", version, served))
                    self.change(entries, self.served()._replace(current=version), new)
                else:
                    self.change(entries, self.served(), new)
            except PolicyError:
                for name in set(new) - here - set(self.served().named):
                    shutil.rmtree(self.folder / name, ignore_errors=True)
                raise
            self._remove_old(version)
        return version

    def add_first(self, until_now: bytes, deed: Deed) -> tuple[str, Entry]:
        """A version of what was served before there was any."""
        first = Deed(deed.moment - timedelta(microseconds=1), deed.who, "what was served before")
        version = self._add(until_now, Policy(parse_policy(until_now, "policy file")), None, first)
        return version, entry_of(first, "publish", version, None)

    def _add(self, content: bytes, policy: Policy, learned: Learned | None, deed: Deed) -> str:
        def fill(new: NewVersion) -> dict[str, Any]:
            new.write(POLICY, content)
            if learned is not None:
                new.save(_THETA, np.asarray(learned.theta, np.float64))
                new.save(_PRECISION, np.asarray(learned.A, np.float64))
                if learned.temperature is not None:
                    new.save(_TEMPERATURE, np.asarray(learned.temperature, np.float64))
            return {
                "published_at": deed.moment.isoformat(),
                "by": deed.who,
                "why": deed.why,
                "name": policy.file.version,
                "kinds": list(policy.file.kind_names),
                "features": list(policy.feature_names),
                "catalog_digest": policy.catalog_digest,
            }

        return self.add(deed.moment, fill)

    def promote(self, version: str, deed: Deed, expect: str | None = None) -> None:
        """Serve a version that is kept. An arm of the experiment that runs ends it."""
        with self.changing(expect) as before:
            self.must_not_be_pinned()
            self.must_not_be_compared(version)
            self.open(version)
            self._serve(version, deed, "promote", before)

    def rollback(self, deed: Deed, expect: str | None = None) -> str:
        """Serve the version that was served before the current one; that version."""
        with self.changing(expect) as before:
            self.must_not_be_pinned()
            self.must_not_be_compared()
            version = self._before(before)
            if version is None:
                raise PolicyError("There is no version to go back to: none was served before the current one.")
            self.open(version)
            self._serve(version, deed, "rollback", before)
        return version

    def pin(self, version: str, deed: Deed, expect: str | None = None) -> None:
        """Serve a version, and no other until it is unpinned; an experiment that runs is over."""
        with self.changing(expect) as before:
            self.open(version)
            entries = [entry_of(deed, "pin", version, before), *self.end_of_experiment(deed, before)]
            self.change(entries, self.served()._replace(pinned=version, experiment=None))

    def unpin(self, deed: Deed, expect: str | None = None) -> str:
        """Let others be served again; until one is, the version that was pinned is."""
        with self.changing(expect) as before:
            version = self.pinned()
            if version is None:
                raise PolicyError("No version is pinned.")
            served = self.served()._replace(current=version, pinned=None)
            self.change([entry_of(deed, "unpin", version, before)], served)
        return version

    def shadow(self, versions: Sequence[str], deed: Deed) -> None:
        """Have these versions loaded beside what is served; none: no more."""
        if len(versions) > MOST_SHADOWS:
            raise PolicyError(f"At most {MOST_SHADOWS} shadows can be kept, but {len(versions)} were named.")
        with self.changing(None) as before:
            for version in versions:
                self.open(version)
            entry = entry_of(deed, "shadow", " ".join(versions) or None, before)
            self.change([entry], self.served()._replace(shadows=tuple(versions)))

    def end_of_experiment(self, deed: Deed, before: str | None) -> list[Entry]:
        experiment = self.experiment()
        if experiment is None:
            return []
        return [entry_of(about(experiment, deed), END, " ".join(experiment.versions), before)]

    def what_is_served(self) -> list[Path]:
        """The files that say so, and who decided it."""
        names = (CURRENT, PINNED, SHADOWS, experiment_files.RUNNING, experiment_files.ENDED, JOURNAL)
        return [self.folder / name for name in names]

    def take_in_told(self, folder: Path) -> None:
        """Looks at versions, and experiments that are over, that another folder of policies has; what is here stays.

        Raises OSError.
        """
        told = [folder / experiment_files.ENDED, *sorted((folder / evidence.FOLDER).glob(f"*{evidence.SUFFIX}"))]
        for path in told:
            target = self.folder / path.relative_to(folder)
            theirs = path.read_bytes().splitlines() if path.exists() else []
            ours = target.read_bytes().splitlines() if target.exists() else []
            if not set(theirs) <= set(ours):
                make_folder(target.parent)
                lines = dict.fromkeys([*theirs, *ours])  # what is brought is older
                write_whole(target, b"".join(line + b"\n" for line in lines), synced=True)

    def bring_back(self, entries: Sequence[Entry], served: Served, deed: Deed) -> bool:
        """Serve what was, with its journal, where nothing is served and nobody decided that; whether it is served.

        The versions are there. Raises PolicyError.
        """
        with self.changing(None):
            if self.served() != NOTHING_SERVED or self.journal.entries() or served == NOTHING_SERVED:
                return self.served() == served
            restored = entry_of(deed, "restore", served.pinned or served.current, None)
            self.change([*entries, restored], served, self.versions())
        return True

    def follow(self) -> None:
        """Serve what the fleet does. Raises PolicyError."""
        with self.changing(None):
            pass

    def served_before(self) -> Iterator[str]:
        """Versions that were served before the current one, the latest first."""
        version = self._before(self.current())
        told: set[str] = set()
        while version is not None and version not in told:
            told.add(version)
            yield version
            version = self._before(version)

    @contextmanager
    def changing(self, expect: str | None) -> Iterator[str | None]:
        """Nobody else changes anything meanwhile; gives what is served."""
        try:
            make_folder(self.folder)
            with locked(self.folder / CHANGE_LOCK):
                if self._fleet is not None:
                    self._fleet.follow(self)
                current = self.current()
                named = current or NO_VERSION
                if expect not in (None, named):
                    raise PolicyError(f"Nothing was changed: the current version is {named}, not {expect}.")
                yield current
        except OSError as error:
            raise self._not_written(error) from error

    def _serve(self, version: str, deed: Deed, did: str, before: str | None) -> None:
        entries = [entry_of(deed, did, version, before), *self.end_of_experiment(deed, before)]
        self.change(entries, self.served()._replace(current=version, experiment=None))

    def change(self, entries: list[Entry], served: Served, new: Sequence[str] = ()) -> None:
        """With the fleet's agreement, where there is one."""
        if self._fleet is not None:
            self._fleet.agree(self, entries, served, list(new))
        self.apply(entries, served)
        if self._fleet is not None:
            self._fleet.noted(self)

    def apply(self, entries: Sequence[Entry], served: Served) -> None:
        """Note, then name. What is pinned goes before what is current, so a pin comes first and goes last."""
        now = self.served()
        try:
            for entry in entries:
                self.journal.add(entry)
            if served.pinned is not None and served.pinned != now.pinned:
                self.point_at(served.pinned, PINNED)
            if served.current is not None and served.current != now.current:
                self.point_at(served.current)
            if served.current is None:
                (self.folder / CURRENT).unlink(missing_ok=True)
            if served.pinned is None:
                (self.folder / PINNED).unlink(missing_ok=True)
            if served.shadows != now.shadows:
                write_whole(self.folder / SHADOWS, "".join(f"{name}\n" for name in served.shadows), synced=True)
            if served.experiment != now.experiment:
                experiment_files.put(self.folder, served.experiment, _over(now.experiment, entries))
        except OSError as error:
            raise self._not_written(error) from error

    def must_not_be_pinned(self) -> None:
        version = self.pinned()
        if version is None:
            return
        deeds = [entry for entry in self.journal.entries() if entry.did == "pin" and entry.version == version]
        told = f" by {deeds[-1].who} at {deeds[-1].when}: {deeds[-1].why}" if deeds else ""
        raise PolicyError(f"Nothing was changed: version {version} was pinned{told}. `recs policy unpin` ends that.")

    def must_not_be_compared(self, promoted: str | None = None) -> None:
        """``promoted``: the version that is to be served from now on."""
        experiment = self.experiment()
        if experiment is None or promoted in experiment.versions:
            return
        raise PolicyError(
            f"Nothing was changed: experiment {experiment.name} of {experiment.who} runs since {experiment.started}, "
            f"and its arms are not changed half way. `recs experiment stop` ends it, and so does promoting one of them."
        )

    def _before(self, version: str | None) -> str | None:
        """What was served when ``version`` was put in its place, other than by going back to it."""
        for entry in reversed(self.journal.entries()):
            if entry.version == version and entry.did in ("publish", "promote", "pin") and entry.before != version:
                return entry.before
        return None

    def is_learners(self, version: str) -> bool:
        """Whether the learner published it, and no person did."""
        try:
            return self.manifest(version).get("by") == BY_LEARNER
        except PolicyError:
            return False

    def candidate(self) -> str | None:
        """The learner's own that the gate weighs: a shadow that was not served yet."""
        before = {self.current(), *self.served_before()}
        own = [name for name in self.shadows() if name not in before and self.is_learners(name)]
        return own[-1] if own else None

    def tried(self) -> list[str]:
        """Shadows that are not only weighed: the candidate, and the version that one would go back to."""
        found = (self.candidate(), next(self.served_before(), None))
        return [name for name in self.shadows() if name in found]

    def remove_old_of_each(self) -> None:
        """After versions came from elsewhere."""
        for learners in (True, False):
            alike = [version for version in self.versions() if self.is_learners(version) == learners]
            if alike:
                self._remove_old(alike[-1])

    def _remove_old(self, new: str) -> None:
        """Of what people published, and of what was learned, the newest each: the learner crowds nobody out."""
        held = {new, self._before(self.current()), *self.served().named}
        versions, learners = self.versions(), self.is_learners(new)
        alike = [version for version in versions if self.is_learners(version) == learners]
        self.remove_old({*held, *(set(versions) - set(alike[: -self._keep]))})


def _over(experiment: Experiment | None, entries: Sequence[Entry]) -> Ended | None:
    if experiment is None:
        return None
    last = next((entry for entry in reversed(entries) if entry.did == END), entries[-1])
    return Ended(experiment, last.when, last.who, last.why.removeprefix(experiment.name).removeprefix(": "))
