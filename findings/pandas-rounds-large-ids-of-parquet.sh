#!/usr/bin/env bash
# pandas changes whole numbers of a Parquet column that may be absent, unless the file's own metadata names its types.
#
# Versions:  pandas 3.1.1, pyarrow 26.0.1.
# One would guess: an int64 column with an absent value keeps its numbers, or reading it says that it can't.
# What happens: the column becomes float64 in silence, and 9007199254740993 (2^53 + 1) reads as ...992. With `Int64` in the
#   metadata that pandas itself writes under the key "pandas", the very same bytes read as they were written.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check pandas==3.1.1 pyarrow==26.0.1
cat >ids.py <<'PYTHON'
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

ID = 2**53 + 1
DESCRIPTION = {
    "index_columns": [],
    "column_indexes": [],
    "columns": [
        {"name": "id", "field_name": "id", "pandas_type": "int64", "numpy_type": "Int64", "metadata": None}
    ],
    "pandas_version": pd.__version__,
}

plain = pa.table({"id": pa.array([ID, None], pa.int64())})
described = plain.replace_schema_metadata({"pandas": json.dumps(DESCRIPTION)})
for name, table in (("plain", plain), ("described", described)):
    pq.write_table(table, f"{name}.parquet")
    column = pd.read_parquet(f"{name}.parquet")["id"]
    print(f"{name}: {column.dtype}, {int(column[0]) - ID:+d}")
PYTHON
output=$(venv/bin/python ids.py)
printf '%s\n' "$output"
grep -qx 'plain: float64, -1' <<<"$output"
grep -qx 'described: Int64, +0' <<<"$output"
