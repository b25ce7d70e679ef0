"""What editors rule while the process that writes it is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from recommendation_service.editors.rulings import Ruling
from recommendation_service.editors.store import RulingsStore
from tests.unit.editors.test_rulings import NOW

RULES = """
import sys
from pathlib import Path
from recommendation_service.editors.rulings import Ruling
from recommendation_service.editors.store import RulingsStore

store = RulingsStore(Path(sys.argv[1]))
for number in range(1, 1_000_000):
    store.rule(Ruling("takedown", "resume", number % 50 + 1, (number % 50 + 1) << 1, "ana", "why", 1.0 * number))
    print(number, flush=True)
"""


@dataclass
class Killed:
    told: int  # how many rulings it said were made


def killed(folder: Path, after: int) -> Killed:
    with subprocess.Popen([sys.executable, "-c", RULES, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = 0
        for line in process.stdout:
            told = int(line)
            if told >= after:
                process.send_signal(signal.SIGKILL)
                break
        left = process.stdout.read().split()
    return Killed(int(left[-1]) if left else told)


def test_a_kill_in_between_leaves_all_that_was_told_and_a_file_that_is_whole(tmp_path: Path) -> None:
    for after in (1, 4, 9):
        folder = tmp_path / f"{after}"
        told = killed(folder, after).told
        store = RulingsStore(folder)
        state, problem = store.read()
        assert problem is None
        assert told <= state.number <= told + 1
        assert len(store.history()) in (state.number, state.number + 1)
        store.rule(Ruling("bury", "resume", 99, 198, "ana", "why", NOW))
        assert store.read()[0].number == state.number + 1
