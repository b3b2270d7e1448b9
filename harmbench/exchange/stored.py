"""Harmonized arrays that the user holds in memory, looked up row by row."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.cohort import COVARIATES, Cohort
from harmbench.contracts.method import ApplyContext, FitContext, Harmonizer, MethodInfo
from harmbench.files.atomic import read_arrays, write_arrays


class Stored(Harmonizer):
    """Images or features that were harmonized elsewhere: looked up, never computed.

    Parameters
    ----------
    file : str
        Written by `write`.
    content : str
        Hash of the file, part of every key.
    """

    def __init__(self, file: str = "", content: str = "") -> None:
        self.file = file
        self.content = content

    @property
    def info(self) -> MethodInfo:
        """It may have seen everything."""
        return MethodInfo(
            name="stored",
            label="Stored images",
            summary="Arrays that were harmonized elsewhere.",
            fit_sees=frozenset(COVARIATES),
            harmonize_sees=frozenset(COVARIATES),
            spaces=frozenset({"slice", "table"}),
            images_only=True,
        )

    @staticmethod
    def write(file: Path, cohort: Cohort, images: NDArray[np.float32]) -> None:
        """Write harmonized images with the keys of their rows."""
        write_arrays(file, {"images": images, "keys": np.array([repr(k) for k in cohort.keys])})

    @cached_property
    def _held(self) -> tuple[dict[str, int], NDArray[np.float32]]:
        arrays = read_arrays(Path(self.file))
        return {key: row for row, key in enumerate(arrays["keys"].tolist())}, arrays["images"]

    def fit(self, cohort: Cohort, context: FitContext) -> Stored:
        """Learn nothing."""
        return self

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the stored images of these rows."""
        rows, images = self._held
        return images[[rows[repr(key)] for key in cohort.keys]]

    def save(self, folder: Path) -> None:
        """Keep nothing but the parameters."""
        from harmbench.files.models import save_model

        save_model(folder, {}, self.params())

    @classmethod
    def load(cls, folder: Path) -> Stored:
        """Read back what `save` wrote."""
        from harmbench.files.models import load_model

        return cls(**load_model(folder)[1])
