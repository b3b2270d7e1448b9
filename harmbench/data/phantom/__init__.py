"""The embedded cohort: a digital multi-site phantom on real anatomy.

Every subject is a pure function of a seed and a number, every scanner of a seed and a name, so the
truth is known: what the same subject's image would be at any site. See ``docs/phantom.md``.
"""

from __future__ import annotations

from harmbench.data.phantom.cohort import PHANTOM_VERSION, Phantom, phantom_dev
from harmbench.data.phantom.effects import EffectMaps, effect_maps

__all__ = ["PHANTOM_VERSION", "EffectMaps", "Phantom", "effect_maps", "phantom_dev"]
