"""The included cohort: a digital multi-site phantom with real anatomy.

A subject depends only on a seed and a number, a scanner only on a seed and a name. So the truth is
known: the image of the same subject at any site. See ``docs/phantom.md``.
"""

from __future__ import annotations

from harmbench.data.phantom.cohort import (
    PHANTOM_VERSION,
    EffectMaps,
    Phantom,
    effect_maps,
    phantom_dev,
)

__all__ = ["PHANTOM_VERSION", "EffectMaps", "Phantom", "effect_maps", "phantom_dev"]
