"""What holds for every test: set before NumPy is imported for the first time."""

from __future__ import annotations

import os
import tempfile

# One thread for the products of the NumPy reference. They are small, and two threads of OpenBLAS
# that wait for each other make them 4 to 20 times slower, most of all on a busy machine. It doesn't
# concern the threads of the kernels.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
# Hypothesis keeps what it learns in a folder, which doesn't belong into the tree.
os.environ.setdefault(
    "HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "fusedrnn-hypothesis")
)
