"""Seconds and memory of the phantom: python benchmarks/phantom.py [--paper]."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable

from harmbench.data.phantom import Phantom

TARGETS = {"load 1,400 of 64 x 64": 10.0, "truth of 420 keys": 3.0}


def timed(name: str, work: Callable[[], object]) -> None:
    """Print wall and processor seconds, and their ratio to the target where there is one."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    target = TARGETS.get(name)
    ratio = f"  {wall / target:4.2f} of the target {target:g} s" if target else ""
    print(f"{name:28s} {wall:6.2f} s wall {processor:6.2f} s processor{ratio}")


def main() -> None:
    phantom = Phantom()
    timed("template (once)", lambda: Phantom(n=2, size=16).load())
    keys = Phantom(size=16).load().keys[:420]
    for _ in range(2):
        timed("load 1,400 of 64 x 64", phantom.load)
        timed("truth of 420 keys", lambda: phantom.truth("siteA", keys))
    timed("load 400 of 48 x 48", Phantom(**Phantom.presets["smoke"]).load)
    if "--paper" in sys.argv:
        timed("load 4,120 of 128 x 128", Phantom(**Phantom.presets["paper"]).load)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MB")


if __name__ == "__main__":
    main()
