"""Tests keep data sets in a cache of their own, which ends with them."""

import atexit
import os
import shutil
import tempfile

if "PYTEST_XDIST_WORKER" not in os.environ:
    CACHE = tempfile.mkdtemp(prefix="harmbench-cache-")
    os.environ["HARMBENCH_CACHE"] = CACHE
    atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
