"""Personal, diverse feeds over the operator's own tables."""

import os

__version__ = "0.1.0"

# One thread a process for linear algebra, whichever process it is: NumPy reads it when it is first imported, and would
# start one for each core of the machine, however few of them may be used here.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
