"""Images made block by block: no more of a cohort is in memory than what is being worked on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import Dataset
from harmbench.files.blocks import blocks, image_bytes, take

Images = NDArray[np.float32]


def in_blocks(cohort: Cohort, images: Images, rows: NDArray[np.intp]) -> Iterator[Cohort]:
    """Yield blocks of the rows of a cohort with their images.

    Harmonizing an image depends on that image alone, so a method may be given some at a time.

    Parameters
    ----------
    cohort : Cohort
        The table and the masks; its images are not read.
    images : ndarray of float32, shape (m, *shape)
        Where the images are taken from.
    rows : ndarray of int, shape (n,)
        Where each row of the cohort stands there.
    """
    positions = np.arange(len(rows))
    for part in blocks(len(rows), image_bytes(images)):
        yield cohort.subset(positions[part], take(images, rows[part]))


def true_images(
    dataset: Dataset, cohort: Cohort, site: str, draw: Mapping[str, Any]
) -> Iterator[Images]:
    """Yield the truth of a cohort's rows in blocks, as `Dataset.truth` says."""
    keys = cohort.keys
    for part in blocks(len(keys), image_bytes(cohort.images)):
        yield dataset.truth(site, keys[part], **draw)


class Outside:
    """Counts the values outside [0, 1] of images that pass by."""

    def __init__(self) -> None:
        self._values = self._outside = 0

    def over(self, parts: Iterable[Images]) -> Iterator[Images]:
        """Yield the same images, counted."""
        for images in parts:
            self._values += images.size
            self._outside += int(np.count_nonzero((images < 0) | (images > 1)))
            yield images

    @property
    def share(self) -> float:
        """Share of the values so far, in [0, 1]."""
        return self._outside / max(self._values, 1)
