"""The cohort: images of many scans with their participants table, shared by all stages."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from harmbench.errors import HarmbenchError
from harmbench.files.blocks import take

Space = Literal["slice", "volume", "table"]
IDENTIFIERS = ("participant_id", "session_id", "slice")
FOLDS = 5
"""Default number of folds if the subjects are too few for separate parts."""
COVARIATES = ("age", "sex", "site")


class RowKey(NamedTuple):
    """Key of one row of a cohort; without `slice` it is the key of the scan."""

    participant_id: str
    site: str
    session_id: str
    slice: int = 0


@dataclass(frozen=True)
class Cohort:
    """Images and the participants table that describes them, row by row.

    Attributes
    ----------
    images : ndarray of float32, shape (n, *shape)
        Intensities, nominally in [0, 1]; finite. They may be mapped from a file and larger than
        memory; code that reads all of them works in blocks (`harmbench.files.blocks`).
    participants : DataFrame with n rows
        Columns ``participant_id`` (str), ``session_id`` (str, ``""`` if there is none) and
        ``slice`` (int, 0 if there is one slice); in a full cohort also ``site`` (str), ``age``
        (years, NaN if missing) and ``sex`` (``"F"``, ``"M"`` or NaN). Other columns are kept.
    mask : ndarray of bool, shape (n, *shape)
        The foreground of each image.
    space : {"slice", "volume", "table"}
        Kind of image: a slice, a volume, or a row of a table of features.

    Raises
    ------
    HarmbenchError
        If lengths or shapes disagree, an identifier is missing, or the images are not float32.
    """

    images: NDArray[np.float32]
    participants: pd.DataFrame
    mask: NDArray[np.bool_]
    space: Space = "slice"

    def __post_init__(self) -> None:
        n = len(self.participants)
        if len(self.images) != n:
            raise HarmbenchError(f"the cohort has {len(self.images)} images but {n} rows")
        if self.mask.shape != self.images.shape:
            raise HarmbenchError(
                f"mask shape {self.mask.shape} differs from image shape {self.images.shape}"
            )
        missing = [name for name in IDENTIFIERS if name not in self.participants]
        if missing:
            raise HarmbenchError(f"the participants table lacks {', '.join(missing)}")
        if self.images.dtype != np.float32:
            raise HarmbenchError(f"images are {self.images.dtype}; a cohort holds float32")

    def __len__(self) -> int:
        return len(self.participants)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return self.images.shape[1:]

    @property
    def keys(self) -> list[RowKey]:
        """Key of every row, in order. The cohort must have the ``site`` column."""
        table = self.participants
        columns = (table["participant_id"], table["site"], table["session_id"], table["slice"])
        return [RowKey(str(p), str(s), str(e), int(k)) for p, s, e, k in zip(*columns, strict=True)]

    @property
    def sites(self) -> list[str]:
        """Names of the sites, sorted."""
        return sorted(self.participants["site"].unique())

    def column(self, name: str) -> NDArray:
        """Return one column of the participants table as an array.

        Raises
        ------
        HarmbenchError
            If this cohort has no such column (a stage receives only the columns it declares).
        """
        if name not in self.participants:
            raise HarmbenchError(
                f"column '{name}' is not there; this stage sees: {', '.join(self.participants)}"
            )
        return self.participants[name].to_numpy()

    def with_images(self, images: ArrayLike) -> Cohort:
        """Return the same rows with other images, one per row (cast to float32)."""
        return replace(self, images=np.asarray(images, dtype=np.float32))

    def with_covariates(self, **columns: ArrayLike) -> Cohort:
        """Return the same images with some columns of the table replaced or added."""
        return replace(self, participants=self.participants.assign(**columns))

    def only(self, columns: Collection[str]) -> Cohort:
        """Return the cohort with its identifiers and the existing ones of `columns` only."""
        keep = [c for c in self.participants if c in IDENTIFIERS or c in columns]
        return replace(self, participants=self.participants[keep])

    def subset(self, rows: ArrayLike, images: NDArray[np.float32] | None = None) -> Cohort:
        """Return the rows selected by a boolean mask or by positions, in that order.

        Parameters
        ----------
        rows : array_like of bool or int
            Mask of length n, or positions.
        images : ndarray of float32, shape (len(rows), *shape), optional
            Images of these rows. If given, they replace the cohort's images, which are not read.
        """
        rows = np.asarray(rows)
        index = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.intp)
        return replace(
            self,
            images=take(self.images, index) if images is None else images,
            participants=self.participants.iloc[index].reset_index(drop=True),
            mask=take(self.mask, index),
        )
