#!/usr/bin/env bash
# Numba compiles a way in from Python for functions that only other kernels call and that are always inlined.
#
# Versions:  numba 0.68.1, llvmlite 0.50.0, on Python 3.11 or newer.
# One would guess: `forceinline=True` makes a part of its callers, so nothing of its own is left to compile; and what no
#   Python code calls gets its wrapper when some does.
# What happens: each njit function gets a wrapper for Python and one for C when it is typed, inlined ones too. For an
#   argument that is a tuple of 60 arrays, what takes it to pieces is nearly all of the machine code: 1,334 lines of
#   LLVM's language, where the function has 19. `no_cpython_wrapper=True, no_cfunc_wrapper=True` leave it out; one
#   inlined function and its caller then compile in 0.7 s instead of 1.1 s, and every further part saves as much again.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check numba==0.68.1 llvmlite==0.50.0
cat >wrappers.py <<'PYTHON'
import time
from collections import namedtuple

import numba
import numpy as np

ARRAYS = 60
Columns = namedtuple("Columns", [f"column_{number}" for number in range(ARRAYS)])
columns = Columns(*(np.zeros(3) for _ in range(ARRAYS)))


def compiled(**options):
    @numba.njit(forceinline=True, **options)
    def part(columns):
        return columns.column_0[0] + columns.column_59[1]

    @numba.njit
    def whole(columns):
        return part(columns) * 2.0

    started = time.process_time()
    assert whole(columns) == 0.0
    seconds = time.process_time() - started
    (signature,) = part.signatures
    lines = part.inspect_llvm(signature).splitlines()
    return len(lines), any("define" in line and "cpython" in line for line in lines), seconds


compiled()  # what is slow once only
for name, options in (("as it comes", {}), ("without", {"no_cpython_wrapper": True, "no_cfunc_wrapper": True})):
    lines, has_wrapper, seconds = compiled(**options)
    print(f"{name}: wrapper {has_wrapper}, {lines} lines, {seconds:.2f} s for both functions")
PYTHON
output=$(venv/bin/python wrappers.py)
printf '%s\n' "$output"
grep -q '^as it comes: wrapper True, ' <<<"$output"
grep -q '^without: wrapper False, ' <<<"$output"
lines() { sed -n "s/^$1: wrapper [A-Za-z]*, \([0-9]*\) lines.*/\1/p" <<<"$output"; }
[ "$(lines 'as it comes')" -gt $((10 * $(lines without))) ]
