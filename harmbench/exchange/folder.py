"""A folder that leaves the suite: slices with their split, and what they are, as a derivative."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harmbench import __version__
from harmbench.config import PROTOCOL_VERSION, RunConfig
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import Dataset
from harmbench.data.bids_write import new_folder, write_derivative, write_tsv
from harmbench.data.geometry import centered
from harmbench.data.preprocess import PreprocessConfig
from harmbench.data.splits import Split, validation_keys
from harmbench.errors import HarmbenchError
from harmbench.files.atomic import write_json
from harmbench.progress import Progress

EXPORT = "export.json"
HARMONIZE = "harmonize.json"
SPLIT = "split.tsv"
KEY_COLUMNS = ["participant_id", "site", "session_id", "slice"]


@dataclass(frozen=True)
class Material:
    """What is sent out.

    Attributes
    ----------
    config : RunConfig
        What was asked for.
    dataset : Dataset
        Knows where its slices lie.
    cohort : Cohort
        All rows, with the images to be written.
    split : Split
        Their parts.
    reference_site : str
        Where a run harmonizes to.
    """

    config: RunConfig
    dataset: Dataset
    cohort: Cohort
    split: Split
    reference_site: str

    def write(
        self,
        out: Path,
        description: str,
        record: tuple[str, Mapping[str, Any]],
        page: str,
        progress: Progress,
    ) -> None:
        """Write the folder; it appears complete or not at all.

        Parameters
        ----------
        out : Path
            Missing or empty.
        description : str
            The entity ``desc`` of the images: what was done to them.
        record : tuple of str and mapping
            Name of the JSON file, and what it says beside what every such folder says.
        page : str
            For readers.
        progress : Progress

        Raises
        ------
        HarmbenchError
            Where `out` holds something, or the rows cannot be named.
        """
        affines, known = affines_of(self.dataset, self.cohort)
        suffix = getattr(self.dataset, "suffix", "T1w")
        rest = f"desc-{description}_{suffix}.nii.gz"
        with new_folder(out) as draft:
            names = write_derivative(
                self.cohort, draft, affines, self._label, rest=rest, progress=progress
            )
            files = [name.file(rest).as_posix() for name in names]
            write_tsv(draft / SPLIT, self._table(files))
            file, more = record
            write_json(draft / file, self._facts(known) | dict(more))
            (draft / "README.md").write_text(page, encoding="utf-8")

    def _table(self, files: list[str]) -> pd.DataFrame:
        """Return all that is known of every file, keys and parts first."""
        known = self.cohort.participants
        own = {
            "part": self.split.part,
            "validation": np.where(self._validation(), "yes", "no"),
            "file": files,
        }
        others = known[[name for name in known if name not in {*KEY_COLUMNS, *own}]]
        return pd.concat([known[KEY_COLUMNS].assign(**own), others], axis=1)

    @property
    def _label(self) -> str:
        return self.dataset.info.label

    def _validation(self) -> NDArray[np.bool_]:
        """Return the rows that a method's fit, with seed 0, may stop or select on."""
        chosen = {
            key
            for fold in (self.split.fits() or {"": self.split.scored()}).values()
            for key in validation_keys(self.cohort.subset(fold.fit), 0)
        }
        return np.array([key in chosen for key in self.cohort.keys], dtype=bool)

    def _facts(self, located: bool) -> dict[str, Any]:
        grid = getattr(self.dataset, "config", None)
        return {
            "harmbench": __version__,
            "protocol_version": PROTOCOL_VERSION,
            "data": self._label,
            "fingerprint": self.dataset.fingerprint,
            "preset": self.config.preset,
            "data_seed": self.config.data_seed,
            "reference_site": self.reference_site,
            "cross_fitting": self.split.cross_fitting,
            "images": len(self.cohort),
            "shape": list(self.cohort.shape),
            "preprocessing": asdict(grid) if isinstance(grid, PreprocessConfig) else None,
            "geometry": "of the scans" if located else "assumed: 1 mm pixels, not located",
        }


def affines_of(dataset: Dataset, cohort: Cohort) -> tuple[NDArray[np.float64], bool]:
    """Return where every slice lies, and whether the data set knows; else 1 mm pixels.

    Returns
    -------
    affines : ndarray of float64, shape (n, 4, 4)
    known : bool

    Raises
    ------
    HarmbenchError
        For cohorts that are not of slices.
    """
    if cohort.space != "slice":
        raise HarmbenchError(
            f"these data are {cohort.space}s, not slices, and only slices are exchanged as NIfTI "
            "files; `harmbench run` takes methods for them"
        )
    found = dataset.geometry(cohort.keys)
    if found is not None:
        return found, True
    plain = centered(cohort.shape, 1.0)
    return np.broadcast_to(plain, (len(cohort), 4, 4)), False
