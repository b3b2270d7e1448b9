"""The public functions: all that the command line does, for scripts and notebooks."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from harmbench import registry
from harmbench.config import MethodSpec, RunConfig, build_dataset, default_folder, resolve
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import Dataset
from harmbench.contracts.method import Harmonizer
from harmbench.contracts.metric import Metric
from harmbench.engine import run as engine
from harmbench.engine.layout import Layout
from harmbench.errors import HarmbenchError
from harmbench.exchange import stored
from harmbench.progress import Progress, make_progress
from harmbench.results.results import Results
from harmbench.study import OF_TRAINING, combined, resolve_method

if TYPE_CHECKING:
    from harmbench.exchange.folder import Material

Names = Sequence[str | MethodSpec]


def run(
    methods: Names | None = None,
    data: str | None = None,
    *,
    config: str | Path | None = None,
    out: str | Path | None = None,
    preset: str | None = None,
    protocol: str | None = None,
    metrics: Sequence[str] | None = None,
    controls: Sequence[str] | None = None,
    reference_site: str | None = None,
    seeds: int | None = None,
    data_seed: int | None = None,
    repeat_within: int | None = None,
    threads: int | None = None,
    device: str | None = None,
    jobs: int | None = None,
    dask: str | None = None,
    weights: Sequence[str] | None = None,
    inception_weights: str | Path | None = None,
    data_options: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> Results:
    """Judge methods on one protocol: fit, harmonize and score.

    Each argument means what the option of `harmbench run` with the same name means. An earlier run
    in the same folder is extended; a run that was stopped goes on where it was.

    Parameters
    ----------
    methods : sequence of str or MethodSpec
        Names as of `methods`, or ``"file.py:Class"``.
    data : str, optional
        A data set's name, a BIDS folder, a table or an ``.npz`` file. Default: ``"phantom"``.
    config : path, optional
        Study file (TOML), or the ``config.json`` of a run; arguments win over it.
    out : path, optional
        The run folder. Default: the same as that of the command line,
        ``results/<study>-<data>-<preset>``.
    preset : {"smoke", "standard", "paper"}, optional
        Sizes and budgets. Default: ``"standard"``.
    protocol : {"five", "core", "full"}, optional
        Which metrics. Default: ``"core"``.
    metrics, controls : sequence of str, optional
        Only these metrics; controls shown beside the methods.
    reference_site : str, optional
        Site to harmonize to.
    seeds, data_seed : int, optional
        How many method seeds; another split.
    repeat_within : int, optional
        Days within which scans of one person at several sites count as repeats.
    threads, device : int, str, optional
        Where to compute.
    jobs : int, optional
        Processes of this machine that work at the same time. In a script, call `run` under
        ``if __name__ == "__main__":`` then.
    dask : str, optional
        Address of a Dask scheduler whose workers are used instead.
    weights : sequence of str, optional
        ``"auto"``, ``"none"`` or ``"METHOD=FOLDER"``.
    inception_weights : path, optional
        File of pytorch-fid's Inception weights.
    data_options : mapping, optional
        Arguments of the data set.
    quiet : bool
        Whether no progress is shown.

    Returns
    -------
    Results

    Raises
    ------
    HarmbenchError
        For whatever the user can correct. A method or metric that fails is a row of the scores.

    Examples
    --------
    >>> import harmbench as hb
    >>> results = hb.run(["combat"], data="phantom", preset="smoke")  # doctest: +SKIP
    >>> results.table(["truth_mae"])  # doctest: +SKIP
    """
    settings, folder = run_settings(
        config,
        out,
        alone=jobs is None and dask is None,
        methods=methods,
        data=data,
        preset=preset,
        protocol=protocol,
        metrics=metrics,
        controls=controls,
        reference_site=reference_site,
        seeds=seeds,
        data_seed=data_seed,
        repeat_within=repeat_within,
        threads=threads,
        device=device,
        weights=weights,
        inception=inception_weights and Path(inception_weights),
        data_options=data_options,
    )
    with make_progress(quiet) as progress:
        return run_config(settings, folder, progress, jobs=jobs, dask=dask)


def run_settings(
    config: str | Path | None, out: str | Path | None, *, alone: bool = True, **given: Any
) -> tuple[RunConfig, Path]:
    """Return the settings of a run and its folder.

    Parameters
    ----------
    config, out : path or None
        Study file, run folder.
    alone : bool
        Whether one process does everything; several have one thread each unless stated.
    **given
        Settings of `harmbench.config.resolve`, None where not given.
    """
    study = None if config is None else Path(config)
    settings = combined(study, given)
    if not alone:
        settings.setdefault("threads", 1)
    if not settings.get("methods") and not settings.get("controls"):
        raise HarmbenchError(
            "nothing to judge: give --methods NAME... (see `harmbench methods`), or --controls"
        )
    resolved = resolve(**settings)
    if out is not None:
        return resolved, Path(out)
    return resolved, default_folder("results", resolved, study, settings["data_options"])


def run_config(
    config: RunConfig,
    folder: Path,
    progress: Progress,
    *,
    jobs: int | None = None,
    dask: str | None = None,
    check: Callable[[Layout], None] | None = None,
) -> Results:
    """Run complete settings, see `harmbench.engine.run.run`."""
    engine.run(config, folder, progress, check=check, jobs=jobs, dask=dask)
    return Results(folder)


def load(folder: str | Path) -> Results:
    """Return the results of a finished run.

    Parameters
    ----------
    folder : path
        The run folder.

    Raises
    ------
    HarmbenchError
        If it holds no run, or one without scores.

    Examples
    --------
    >>> import harmbench as hb
    >>> hb.load("results/phantom-smoke").ranking()  # doctest: +SKIP
    """
    return Results(folder)


def score(
    harmonized: Mapping[str, ArrayLike | pd.DataFrame],
    reference: ArrayLike | pd.DataFrame,
    people: pd.DataFrame,
    *,
    reference_site: str | None = None,
    metrics: str | Sequence[str] = "core",
    controls: Sequence[str] | None = None,
    data_seed: int | None = None,
    threads: int | None = None,
    device: str | None = None,
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
        where known; ``session_id`` where somebody was scanned more than once.
    reference_site : str, optional
        Site that the images were harmonized to. Default: the site with most people.
    metrics : {"five", "core", "full"} or sequence of str
        A level of the protocol, or names of metrics.
    controls : sequence of str, optional
        Controls shown beside the rows.
    data_seed : int, optional
        Of the split.
    threads, device, preset
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
    >>> hb.score({"mine": mine}, raw, people, reference_site="A")  # doctest: +SKIP
    """
    kept = TemporaryDirectory(prefix="harmbench-") if out is None else None
    folder = Path(kept.name, "run") if kept else Path(out or "")
    inputs = folder.with_name(f"{folder.name}-inputs")
    inputs.mkdir(parents=True, exist_ok=True)
    data, as_images = _reference(reference, people, inputs)
    level = {"protocol": metrics} if isinstance(metrics, str) else {"metrics": metrics}
    asked: dict[str, Any] = {"data": str(data), "preset": preset, "data_seed": data_seed}
    cohort = build_dataset(resolve(data=str(data), preset=preset)).load()
    rows = [_row(name, as_images(name, one), cohort, inputs) for name, one in harmonized.items()]
    settings, place = run_settings(
        None,
        folder,
        methods=rows,
        reference_site=reference_site,
        controls=controls,
        threads=threads,
        device=device,
        **asked,
        **level,
    )
    with make_progress(quiet) as progress:
        engine.run(settings, place, progress)
    return Results(place, kept)


def _reference(
    reference: ArrayLike | pd.DataFrame, people: pd.DataFrame, inputs: Path
) -> tuple[Path, Callable[[str, Any], NDArray[np.float32]]]:
    """Write the unharmonized data; return the file, and how other arrays become images."""
    missing = [name for name in ("participant_id", "site") if name not in people]
    if missing:
        raise HarmbenchError(f"people has no column {', '.join(missing)}")
    values = np.asarray(reference, dtype=float)
    if values.ndim not in (2, 3) or len(values) != len(people):
        raise HarmbenchError(
            f"reference has shape {values.shape}; give (n, height, width) or (n, features) for the "
            f"{len(people)} rows of people"
        )
    if not np.isfinite(values).all():
        raise HarmbenchError("reference holds NaN or infinite values; leave those rows out")
    if values.ndim == 2:
        from harmbench.data.tables import standardize

        names = getattr(reference, "columns", [f"feature_{i}" for i in range(values.shape[1])])
        features = pd.DataFrame(values, columns=list(names))
        file = inputs / "reference.csv"
        pd.concat([people.reset_index(drop=True), features], axis=1).to_csv(file, index=False)
        return file, partial(_like, values, partial(standardize, reference=values))
    file = inputs / "reference.npz"
    columns = {name: _column(people[name]) for name in people}
    arrays = {"images": values.astype(np.float32), "preprocessed": np.array(True), **columns}
    np.savez(file, **arrays)
    return file, partial(_like, values, np.asarray)


def _column(values: pd.Series) -> NDArray:
    if pd.api.types.is_numeric_dtype(values):
        return values.to_numpy()
    return values.fillna("").astype(str).to_numpy(dtype=str)


def _like(
    reference: NDArray, convert: Callable[[NDArray], NDArray], name: str, values: Any
) -> NDArray[np.float32]:
    found = np.asarray(values, dtype=float)
    if found.shape != reference.shape:
        raise HarmbenchError(
            f"'{name}' has shape {found.shape} and reference {reference.shape}; give one row for "
            "each row of reference"
        )
    if not np.isfinite(found).all():
        raise HarmbenchError(f"'{name}' holds NaN or infinite values")
    return convert(found).astype(np.float32)


def _row(name: str, images: NDArray[np.float32], cohort: Cohort, inputs: Path) -> MethodSpec:
    if images.shape != cohort.images.shape:
        raise HarmbenchError(
            f"of the reference, {cohort.images.shape[1:]} values a row could be read, of "
            f"{images.shape[1:]}; every feature must be a column of numbers"
        )
    content = hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()[:32]
    file = inputs / f"{content}.npz"
    stored.Stored.write(file, cohort, images)
    params = {"file": str(file.resolve()), "content": content}
    return MethodSpec(name=f"{stored.__file__}:Stored", label=name, params=params)


def train(
    methods: Names | None = None,
    data: str | None = None,
    *,
    config: str | Path | None = None,
    out: str | Path | None = None,
    preset: str | None = None,
    reference_site: str | None = None,
    seeds: int | None = None,
    seed: int | None = None,
    data_seed: int | None = None,
    threads: int | None = None,
    device: str | None = None,
    devices: int = 1,
    data_options: Mapping[str, Any] | None = None,
    quiet: bool = False,
    command: str = "",
) -> list[Path]:
    """Train methods as `run` does, and save their weights.

    Each argument means what the option of `harmbench train` with the same name means.

    Parameters
    ----------
    methods, data, config, preset, reference_site, seeds, data_seed, threads, device, data_options
        As in `run`.
    out : path, optional
        Folder for the weights. Default: ``weights/<data>-<preset>``.
    seed : int, optional
        Only this method seed, instead of `seeds`.
    devices : int
        Processes that train one model together.
    quiet : bool
        Whether no progress is shown.
    command : str
        What the cards name as the command that made the weights.

    Raises
    ------
    KeyboardInterrupt
        Naming the folder, after the state is saved; the same call goes on.

    Returns
    -------
    list of Path
        One folder for each method and seed, for ``weights=["METHOD=FOLDER"]`` of `run`.

    Examples
    --------
    >>> import harmbench as hb
    >>> hb.train(["cvae"], "phantom", preset="smoke")  # doctest: +SKIP
    """
    from harmbench.engine.train import train as fit
    from harmbench.training.group import is_first

    if seed is not None and seeds is not None:
        raise HarmbenchError("--seed trains one seed, --seeds the first so many; give one of them")
    given = {
        "methods": methods,
        "data": data,
        "preset": preset,
        "reference_site": reference_site,
        "seeds": seeds,
        "data_seed": data_seed,
        "threads": threads,
        "device": device,
        "data_options": data_options,
    }
    study = None if config is None else Path(config)
    settings = combined(study, given, OF_TRAINING)
    if not settings.get("methods"):
        raise HarmbenchError("nothing to train: give --methods NAME... (see `harmbench methods`)")
    resolved = resolve(**settings, controls=("none",))
    options = settings["data_options"]
    folder = Path(out) if out else default_folder("weights", resolved, study, options)
    wanted = range(resolved.seeds) if seed is None else [seed]
    with make_progress(quiet or not is_first()) as progress:
        try:
            return fit(resolved, folder, progress, seeds=wanted, command=command, devices=devices)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(str(folder)) from None


def harmonize(
    method: str,
    out: str | Path,
    data: str | None = None,
    *,
    weights: str = "auto",
    target: str | None = None,
    config: str | Path | None = None,
    preset: str | None = None,
    reference_site: str | None = None,
    data_seed: int | None = None,
    threads: int | None = None,
    device: str | None = None,
    data_options: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> Material:
    """Harmonize a whole data set with one method and write it as NIfTI files.

    Each argument means what the option of `harmbench harmonize` with the same name means.

    Parameters
    ----------
    method : str
        A name as of `methods`, ``"file.py:Class"``, or the label of a variant in the study file.
    out : path
        New folder to write to.
    data, config, preset, reference_site, data_seed, threads, device, data_options
        As in `run`.
    weights : str
        ``"auto"``, ``"none"``, or a folder that `train` has written.
    target : str, optional
        Site to harmonize to. Default: the reference site.
    quiet : bool
        Whether no progress is shown.

    Returns
    -------
    Material
        The harmonized cohort, its split and the reference site.

    Examples
    --------
    >>> import harmbench as hb
    >>> hb.harmonize("combat", "harmonized", "my-bids-folder")  # doctest: +SKIP
    """
    from harmbench.exchange.harmonize import harmonize as write

    given = {
        "data": data,
        "preset": preset,
        "reference_site": reference_site,
        "data_seed": data_seed,
        "threads": threads,
        "device": device,
        "data_options": data_options,
    }
    settings = resolve_method(None if config is None else Path(config), given, method, weights)
    with make_progress(quiet) as progress:
        return write(settings, Path(out), progress, target=target)


def methods() -> pd.DataFrame:
    """Return all methods and controls with what they declare, by name.

    Examples
    --------
    >>> import harmbench as hb
    >>> bool(hb.methods().loc["combat", "control"])
    False
    """
    return _table("method")


def metrics() -> pd.DataFrame:
    """Return all metrics with what they declare, by name.

    Examples
    --------
    >>> import harmbench as hb
    >>> hb.metrics().loc["age_mae", "unit"]
    'years'
    """
    return _table("metric")


def datasets() -> pd.DataFrame:
    """Return all data sets with what they declare, by name.

    Examples
    --------
    >>> import harmbench as hb
    >>> bool(hb.datasets().loc["phantom", "has_truth"])
    True
    """
    return _table("dataset")


def _table(kind: registry.Kind) -> pd.DataFrame:
    infos = {name: vars(info_of(registry.load(kind, name))) for name in registry.names(kind)}
    return pd.DataFrame.from_dict(infos, orient="index").rename_axis("name").drop(columns="name")


def info_of(plugin: Any) -> Any:
    """Return the declaration of a plug-in: of a metric, or of a method or data set as it is made.

    What only a path can complete still has a name, a label and a summary.
    """
    if isinstance(plugin, Metric):
        return plugin.info
    return instance_of(plugin).info


def instance_of(plugin: Any) -> Harmonizer | Dataset:
    """Return a method or a data set made without arguments, or with stand-ins for paths."""
    named = inspect.signature(plugin).parameters.values()
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p.name for p in named if p.default is p.empty and p.kind not in several]
    made: Harmonizer | Dataset = plugin(**dict.fromkeys(required, "FOLDER"))
    return made
