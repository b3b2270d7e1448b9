"""Arrays and tables that the user holds in memory, before and after harmonization."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from harmbench.config import MethodSpec, build_dataset, resolve
from harmbench.contracts.cohort import COVARIATES, Cohort
from harmbench.contracts.method import ApplyContext, FitContext, Harmonizer, MethodInfo
from harmbench.data.tables import standardize
from harmbench.engine.run import run
from harmbench.errors import HarmbenchError
from harmbench.files.atomic import read_arrays, write_arrays
from harmbench.progress import make_progress
from harmbench.results.results import Results
from harmbench.study import run_settings


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


def score(
    harmonized: Mapping[str, ArrayLike | pd.DataFrame],
    reference: ArrayLike | pd.DataFrame,
    people: pd.DataFrame,
    *,
    reference_site: str | None = None,
    metrics: str | Sequence[str] = "core",
    controls: Sequence[str] | None = None,
    data_seed: int | None = None,
    folds: int | None = None,
    repeat_within: int | None = None,
    threads: int | None = None,
    device: str | None = None,
    jobs: int | None = None,
    inception_weights: str | Path | None = None,
    preset: str = "standard",
    out: str | Path | None = None,
    quiet: bool = False,
) -> Results:
    """Score images or tables of features that were harmonized by any program.

    The same metrics as in `run` are computed, except those that need the method itself (other
    covariates, another target site).

    Parameters
    ----------
    harmonized : mapping of str to array or DataFrame
        By the name of the row in the table: images of shape (n, height, width), or features of
        shape (n, k), in the order and the units of `reference`.
    reference : array or DataFrame
        The unharmonized images or features. Images are taken as they are, so bring them to about
        [0, 1] first; a DataFrame names its features by its columns.
    people : DataFrame of n rows
        Columns ``participant_id`` and ``site``; ``age`` (years) and ``sex`` (``"F"``, ``"M"``)
        if known; ``session_id`` if a person was scanned more than once.
    reference_site : str, optional
        Site that the images were harmonized to. Default: the site with most people.
    metrics : {"five", "core", "full"} or sequence of str
        A level of the protocol, or names of metrics.
    controls : sequence of str, optional
        Controls shown beside the rows.
    data_seed, folds : int, optional
        Seed of the split, and number of folds, as in `run`.
    repeat_within, threads, device, jobs, inception_weights, preset
        As in `run`.
    out : path, optional
        The run folder. Default: a temporary folder, deleted together with the results.
    quiet : bool
        Whether no progress is shown.

    Returns
    -------
    Results

    Raises
    ------
    HarmbenchError
        If shapes differ, values are not finite, or columns are missing.

    Examples
    --------
    >>> import harmbench as hb
    >>> import numpy as np
    >>> import pandas as pd
    >>> people = pd.DataFrame(
    ...     {"participant_id": [f"p{i}" for i in range(60)], "site": ["A", "B"] * 30}
    ... )
    >>> raw = np.random.default_rng(0).normal(3, 1, (60, 5))
    >>> results = hb.score(
    ...     {"centered": raw - raw.mean(axis=0)}, raw, people, reference_site="A",
    ...     metrics=["distance_pcc"], quiet=True,
    ... )
    >>> float(results.table(["distance_pcc"]).loc[("centered", 0), "distance_pcc"].round(3))
    1.0
    """
    kept = TemporaryDirectory(prefix="harmbench-") if out is None else None
    folder = Path(kept.name, "run") if kept else Path(out or "")
    inputs = folder.with_name(f"{folder.name}-inputs")
    data = write_reference(reference, people, inputs)
    cohort = build_dataset(resolve(data=str(data), preset=preset)).load()
    level = {"protocol": metrics} if isinstance(metrics, str) else {"metrics": metrics}
    settings, place = run_settings(
        None,
        folder,
        alone=jobs is None,
        data=str(data),
        methods=[
            write_row(name, values, reference, cohort, inputs)
            for name, values in harmonized.items()
        ],
        preset=preset,
        reference_site=reference_site,
        controls=controls,
        data_seed=data_seed,
        folds=folds,
        repeat_within=repeat_within,
        threads=threads,
        device=device,
        inception_weights=inception_weights,
        **level,
    )
    with make_progress(quiet) as progress:
        run(settings, place, progress, jobs=jobs)
    return Results(place, kept)
