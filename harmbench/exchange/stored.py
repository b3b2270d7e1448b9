"""Arrays and tables that the user holds in memory, before and after harmonization."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from harmbench.config import MethodSpec
from harmbench.contracts.cohort import COVARIATES, Cohort
from harmbench.contracts.method import ApplyContext, FitContext, Harmonizer, MethodInfo
from harmbench.data.tables import standardize
from harmbench.errors import HarmbenchError
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


def write_reference(
    reference: ArrayLike | pd.DataFrame, people: pd.DataFrame, folder: Path
) -> Path:
    """Write unharmonized images or features as a file that a run can read.

    Parameters
    ----------
    reference : array of shape (n, height, width) or (n, features), or DataFrame
        The unharmonized data.
    people : DataFrame of n rows
        The participants table.
    folder : Path
        Where to write.

    Returns
    -------
    Path
        An ``.npz`` file of images or a ``.csv`` table.

    Raises
    ------
    HarmbenchError
        If shapes differ, values are not finite, or a column is missing.
    """
    missing = [name for name in ("participant_id", "site") if name not in people]
    if missing:
        raise HarmbenchError(f"people has no column {', '.join(missing)}")
    values = _finite(reference, "reference")
    if values.ndim not in (2, 3) or len(values) != len(people):
        raise HarmbenchError(
            f"reference has shape {values.shape}; give (n, height, width) or (n, features) for the "
            f"{len(people)} rows of people"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if values.ndim == 2:
        names = getattr(reference, "columns", [f"feature_{i}" for i in range(values.shape[1])])
        features = pd.DataFrame(values, columns=list(names))
        if shared := sorted(set(map(str, features)) & set(map(str, people))):
            raise HarmbenchError(
                f"{', '.join(shared)} is a column of people and of reference; leave it out of one"
            )
        file = folder / "reference.csv"
        pd.concat([people.reset_index(drop=True), features], axis=1).to_csv(file, index=False)
        return file
    file = folder / "reference.npz"
    columns = {name: _column(people[name]) for name in people}
    np.savez(
        file, allow_pickle=False, images=values.astype(np.float32), preprocessed=True, **columns
    )
    return file


def write_row(
    name: str, values: Any, reference: ArrayLike | pd.DataFrame, cohort: Cohort, folder: Path
) -> MethodSpec:
    """Write harmonized data; return the method that looks them up.

    Parameters
    ----------
    name : str
        Label of the row in the tables.
    values, reference : arrays or DataFrames of the same shape
        The data after and before harmonization.
    cohort : Cohort
        What a run reads from the file of `write_reference`.
    folder : Path
        Where to write.

    Raises
    ------
    HarmbenchError
        If shapes differ or values are not finite.
    """
    found, before = _finite(values, f"'{name}'"), np.asarray(reference, dtype=float)
    if found.shape != before.shape:
        raise HarmbenchError(
            f"'{name}' has shape {found.shape} and reference {before.shape}; give one row for "
            "each row of reference"
        )
    images = standardize(found, reference=before) if found.ndim == 2 else found
    if images.shape != cohort.images.shape:
        raise HarmbenchError(
            f"reference has {images.shape[1:]} values in each row, of which "
            f"{cohort.images.shape[1:]} could be read; every feature must be a column of numbers"
        )
    images = np.ascontiguousarray(images, dtype=np.float32)
    content = hashlib.sha256(images.tobytes()).hexdigest()[:32]
    file = folder / f"{content}.npz"
    Stored.write(file, cohort, images)
    params = {"file": str(file.resolve()), "content": content}
    return MethodSpec(name=f"{__file__}:Stored", label=name, params=params)


def _finite(values: Any, name: str) -> NDArray[np.float64]:
    try:
        found = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise HarmbenchError(f"{name} must be an array of numbers: {error}") from error
    if not np.isfinite(found).all():
        raise HarmbenchError(f"{name} holds NaN or infinite values; leave those rows out")
    return found


def _column(values: pd.Series) -> NDArray:
    if pd.api.types.is_numeric_dtype(values):
        return values.to_numpy()
    return values.fillna("").astype(str).to_numpy(dtype=str)
