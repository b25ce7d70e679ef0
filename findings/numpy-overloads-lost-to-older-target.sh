#!/usr/bin/env bash
# mypy that is told to read as Python 3.11 finds no overload of numpy 2.5's ndarray.max() for a valid call.
#
# Versions:  mypy 2.4.1 and numpy 2.5.5, on Python 3.12 or newer (which numpy 2.5 needs).
# One would guess: `python_version = "3.11"` only holds the project to its oldest Python; if the installed stubs use
#   syntax newer than that, mypy says so.
# What happens: overloads of the stubs are dropped in silence. `column.max()` is then an error of the caller: "All
#   overload variants of "max" of "ndarray" require at least one argument". Read as 3.13, the same file is right.
set -euo pipefail

python=''
for candidate in python3.14 python3.13 python3.12; do
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then python=$candidate && break; fi
done
[ -n "$python" ] || { echo "needs a Python from 3.12 to 3.14 on the PATH" && exit 1; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check mypy==2.4.1 numpy==2.5.5
cat >largest.py <<'PYTHON'
import numpy as np
import numpy.typing as npt


def largest(column: npt.NDArray[np.int64]) -> int:
    return int(column.max())
PYTHON

older=$(venv/bin/mypy --strict --python-version 3.11 largest.py || true)
newer=$(venv/bin/mypy --strict --python-version 3.13 largest.py || true)
printf 'read as 3.11:\n%s\nread as 3.13:\n%s\n' "$older" "$newer"
grep -q 'All overload variants of "max" of "ndarray" require at least one argument' <<<"$older"
grep -q 'Success: no issues found' <<<"$newer"
