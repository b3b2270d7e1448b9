"""The control that denoises before ComBat: how far plain smoothing of noise gets a method."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from baselines.combat import Combat
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import ApplyContext, FitContext, Harmonizer, MethodInfo
from harmbench.files.models import load_model, save_model


class DenoisedCombat(Harmonizer):
    """Total-variation denoising of every image (Chambolle 2004), then ComBat.

    An error to a noise-free truth falls by denoising alone, without any site effect removed; a
    method that beats ComBat there has to beat this control, too.

    Parameters
    ----------
    weight : float
        Strength of the denoising, in units of the intensities (nominally 0 to 1); 0 for none.
    """

    def __init__(self, weight: float = 0.002) -> None:
        self.weight = weight
        self.combat = Combat()

    @property
    def info(self) -> MethodInfo:
        """Sees what ComBat with age and sex sees; reference site only."""
        combat = Combat().info
        return MethodInfo(
            name="denoise+combat",
            label="Denoising + ComBat",
            summary="Denoises every image by its total variation, then applies ComBat.",
            doi="10.1023/B:JMIV.0000011325.36760.1e",
            fit_sees=combat.fit_sees,
            harmonize_sees=combat.harmonize_sees,
            spaces=frozenset({"slice", "volume"}),
            control=True,
        )

    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        """Learn ComBat on the denoised images."""
        self.combat = Combat().fit(self._denoised(cohort), context)
        return self

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the images, denoised and harmonized, shape (n, *shape)."""
        return self.combat.harmonize(self._denoised(cohort), target, context=context)

    def _denoised(self, cohort: Cohort) -> Cohort:
        """Denoise inside the masks; what lies outside stays as it is."""
        if not self.weight:
            return cohort
        from skimage.restoration import denoise_tv_chambolle

        smooth = [denoise_tv_chambolle(image, weight=self.weight) for image in cohort.images]
        out = np.array(smooth, dtype=np.float32).reshape(cohort.images.shape)
        return cohort.with_images(np.where(cohort.mask, out, cohort.images))

    def save(self, folder: Path) -> None:
        """Write the strength, and what ComBat writes."""
        save_model(folder, {}, {"params": self.params()})
        self.combat.save(Path(folder) / "combat")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read back what `save` wrote."""
        method = cls(**load_model(folder)[1]["params"])
        method.combat = Combat.load(Path(folder) / "combat")
        return method
