#!/usr/bin/env bash
# implicit's recommend gives items that the user had, though filter_already_liked_items is true, at the end of its list.
#
# Versions:  implicit 0.7.3, numpy 2.4.6, scipy 1.17.1; Python 3.11 and newer
# One would guess: with filter_already_liked_items, which is the default, what the user had is not in the list; it is
#   shorter where there is nothing else.
# What happens: an item-kNN that knows fewer other items than N fills up with those that the user had, at 0; ALS does the
#   same at -3.4e38 where N reaches them. So a hit may be an item of the history, and a list's length tells nothing.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: \
    implicit==0.7.3 numpy==2.4.6 scipy==1.17.1
export OPENBLAS_NUM_THREADS=1

output=$("$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from implicit.nearest_neighbours import CosineRecommender
from scipy.sparse import csr_matrix

# The first user had items 1 and 2; only item 3 is like them.
users = csr_matrix(np.array([[0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]], float))
for model in (CosineRecommender(K=10), AlternatingLeastSquares(factors=2, iterations=2, random_state=0)):
    model.fit(users, show_progress=False)
    items, scores = model.recommend(0, users[0], N=6, filter_already_liked_items=True)
    had = [f"{item} at {score:.2g}" for item, score in zip(items, scores) if item in (1, 2)]
    print(type(model).__name__, "gives back", ", ".join(had))
PYTHON
)
printf '%s\n' "$output"
grep -qx "CosineRecommender gives back 2 at 0, 1 at 0" <<<"$output"
grep -qx "AlternatingLeastSquares gives back 2 at -3.4e+38, 1 at -3.4e+38" <<<"$output"
