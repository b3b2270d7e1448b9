"""Time and value of the Frechet distance beside pytorch-fid's: python benchmarks/frechet.py.

Two samples of 300 in 2,048 dimensions, the size of Inception features on a test part. pytorch-fid
takes the square root of a 2,048 x 2,048 product of rank 299; ours are 300 singular values.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from pytorch_fid.fid_score import calculate_frechet_distance  # needs scipy below 1.18

from harmbench.protocol.quality.frechet import frechet_distance


def moments(x):
    return x.mean(0), np.cov(x, rowvar=False)


def timed(function, repeats):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        value = function()
        times.append(time.perf_counter() - start)
    return value, min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--d", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    # Features like Inception's: not negative, their scales falling off.
    scale = 0.4 * np.exp(-np.arange(options.d) / 400)
    mixing = rng.normal(size=(options.d, options.d)) / np.sqrt(options.d)
    x, y = (
        np.maximum(rng.normal(size=(options.n, options.d)) @ (mixing * scale) + shift, 0)
        for shift in (0.0, 0.05)
    )
    frechet_distance(x[:50], y[:50])  # load the libraries
    ours, fast = timed(lambda: frechet_distance(x, y), 10 * options.repeats)
    theirs, slow = timed(
        lambda: calculate_frechet_distance(*moments(x), *moments(y)), options.repeats
    )
    print(f"n = {options.n}, d = {options.d}")
    print(f"harmbench    {ours:.6f}  {1000 * fast:9.1f} ms")
    print(f"pytorch-fid  {theirs:.6f}  {1000 * slow:9.1f} ms")
    print(f"ratio {slow / fast:.0f}, relative difference {abs(ours - theirs) / theirs:.1e}")


if __name__ == "__main__":
    main()
