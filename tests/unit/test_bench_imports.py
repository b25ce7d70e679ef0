"""What `make bench` measures is there: its modules follow what moves in the package, which types alone do not hold."""

from __future__ import annotations

import importlib
from pathlib import Path

import benchmarks

# Applications of a server of their own, which are set up as they are imported.
SERVED = {"fixed_app", "sampled_app"}


def test_every_module_of_the_benchmarks_can_be_imported() -> None:
    names = {path.stem for path in Path(str(benchmarks.__file__)).parent.glob("*.py")} - {"__init__", *SERVED}
    assert len(names) > 15
    for name in sorted(names):
        importlib.import_module(f"benchmarks.{name}")
