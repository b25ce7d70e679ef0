"""The experiment that runs, and those that are over, as files of the store's folder."""

import json
from pathlib import Path

from recommendation_service.core.files import append_line, write_whole
from recommendation_service.policies.experiment import Ended, Experiment, experiment_of

RUNNING = "EXPERIMENT"
ENDED = "experiments.jsonl"


def running(folder: Path) -> Experiment | None:
    """None where there is none, or what is there cannot be read: then feeds are made by what is served."""
    return read(folder)[0]


def read(folder: Path) -> tuple[Experiment | None, str | None]:
    """The experiment that runs, and what is wrong with the file that should name it."""
    path = folder / RUNNING
    try:
        return experiment_of(json.loads(path.read_bytes())), None
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or repr(error)
        return None, (
            f"{path} cannot be read ({reason}), so no experiment runs: all feeds are made by what is served. "
            "`recs experiment start` puts another in its place; without the file none is to run."
        )


def ended(folder: Path) -> list[Ended]:
    """Oldest first, each once; lines that cannot be read, as of a machine that lost its power, are passed over."""
    try:
        lines = (folder / ENDED).read_bytes().splitlines()
    except OSError:
        return []
    found: dict[str, Ended] = {}
    for line in lines:
        try:
            content = json.loads(line)
            one = Ended(experiment_of(content["experiment"]), *(str(content[name]) for name in ("when", "who", "why")))
        except (ValueError, TypeError, KeyError):
            continue
        found[one.experiment.name] = one
    return list(found.values())


def put(folder: Path, experiment: Experiment | None, over: Ended | None) -> None:
    """``experiment`` runs from now on, if any; ``over``: the one that did. Raises OSError.

    What is over is noted first: a process that ends in between leaves an experiment that runs on, and is noted again.
    """
    if over is not None:
        content = {"experiment": over.experiment.content(), "when": over.when, "who": over.who, "why": over.why}
        append_line(folder / ENDED, content)
    if experiment is None:
        (folder / RUNNING).unlink(missing_ok=True)
    else:
        write_whole(folder / RUNNING, json.dumps(experiment.content(), ensure_ascii=False), synced=True)
