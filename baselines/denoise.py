"""The control that denoises before ComBat, which shows the effect of smoothing alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from baselines.combat import Combat
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import ApplyContext, FitContext, Harmonizer, MethodInfo
from harmbench.files.models import load_model, save_model


@dataclass(eq=False)
class DenoisedCombat(Harmonizer):
    """Total-variation denoising of every image (Chambolle 2004), then ComBat.

    Denoising alone lowers the error to a noise-free truth, without removing any site effect. A
    method that has a lower error than ComBat should also have a lower error than this control.

    Parameters
    ----------
    weight : float
        Strength of the denoising, in units of the intensities (nominally 0 to 1); 0 for none.
    """

    weight: float = 0.002

    @property
    def info(self) -> MethodInfo:
        """The method uses site, age and sex like ComBat and renders at the reference site only."""
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
        """Fit ComBat on the denoised images."""
        self.combat = Combat().fit(self._denoised(cohort), context)
        return self

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the denoised and harmonized images, shape (n, *shape)."""
        return self.combat.harmonize(self._denoised(cohort), target, context=context)

    def _denoised(self, cohort: Cohort) -> Cohort:
        """Denoise within the masks only."""
        if not self.weight:
            return cohort
        from skimage.restoration import denoise_tv_chambolle

        smooth = [denoise_tv_chambolle(image, weight=self.weight) for image in cohort.images]
        out = np.array(smooth, dtype=np.float32).reshape(cohort.images.shape)
        return cohort.with_images(np.where(cohort.mask, out, cohort.images))

    def save(self, folder: Path) -> None:
        """Write the strength and the fitted ComBat."""
        save_model(folder, {}, {"params": self.params()})
        self.combat.save(Path(folder) / "combat")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the method that `save` wrote."""
        method = cls(**load_model(folder)[1]["params"])
        method.combat = Combat.load(Path(folder) / "combat")
        return method
