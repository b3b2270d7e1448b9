"""Seeds and generators derived from named parts, so that adding a method never shifts another's."""

from __future__ import annotations

import hashlib
import json

import numpy as np


def seed_from(*parts: str | int | float | bool | None) -> int:
    """Return a 63-bit seed that depends on the parts and on nothing else.

    Parameters
    ----------
    *parts : str, int, float, bool or None
        The names and numbers that the stream of random numbers belongs to.

    Returns
    -------
    int
        In ``[0, 2**63)``; the same on every machine and in every process.
    """
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def rng_from(*parts: str | int | float | bool | None) -> np.random.Generator:
    """Return a NumPy generator (PCG64) seeded by `seed_from` of the parts."""
    return np.random.Generator(np.random.PCG64(seed_from(*parts)))
