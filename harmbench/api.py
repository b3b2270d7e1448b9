"""The public functions: all that the command line does, for scripts and notebooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from harmbench import registry
from harmbench.config import MethodSpec, RunConfig, resolve
from harmbench.engine import run as engine
from harmbench.engine.layout import Layout
from harmbench.errors import HarmbenchError
from harmbench.progress import Progress, make_progress
from harmbench.results.results import Results
from harmbench.study import (
    OF_TRAINING,
    combined,
    default_folder,
    resolve_method,
    run_settings,
)

if TYPE_CHECKING:
    from harmbench.exchange.folder import Material

Names = Sequence[str | MethodSpec]
SUBJECTS = (10, 20, 40, 80)
"""Default numbers of subjects per site of `curve`."""


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
    folds: int | None = None,
    subjects: int | None = None,
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
    folds : int, optional
        Number of folds if the data are too few for separate parts. Default: 5.
    subjects : int, optional
        Largest number of subjects of a site; they are chosen at random.
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
    >>> results = hb.run(
    ...     ["combat"], "phantom", preset="smoke", metrics=["truth_mae"],
    ...     data_options={"n": 90, "size": 32}, out="results/example", quiet=True,
    ... )
    >>> list(results.table(["truth_mae"]).index.get_level_values("label"))
    ['identity', 'shuffle', 'oracle', 'combat']
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
        folds=folds,
        subjects=subjects,
        repeat_within=repeat_within,
        threads=threads,
        device=device,
        weights=weights,
        inception_weights=inception_weights,
        data_options=data_options,
    )
    with make_progress(quiet) as progress:
        return run_config(settings, folder, progress, jobs=jobs, dask=dask)


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


def curve(
    methods: Names | None = None,
    data: str | None = None,
    *,
    subjects: Sequence[int] = SUBJECTS,
    out: str | Path = "results/curve",
    **settings: Any,
) -> pd.DataFrame:
    """Evaluate methods on data with fewer and fewer subjects per site.

    Parameters
    ----------
    methods, data
        As in `run`.
    subjects : sequence of int
        Numbers of subjects per site; smaller numbers are subsets of larger ones.
    out : path
        Folder with a run for each number, the table ``curve.csv`` and the figure ``curve.png``.
    **settings
        Further arguments of `run`.

    Returns
    -------
    DataFrame
        One row per number, method and metric: ``subjects``, ``label``, ``metric``, ``value``,
        ``ci_low``, ``ci_high``, ``target``, ``n``.

    Raises
    ------
    HarmbenchError
        As `run`.

    Examples
    --------
    >>> import harmbench as hb
    >>> table = hb.curve(
    ...     ["combat"], "phantom", subjects=[6, 12], preset="smoke", metrics=["truth_mae"],
    ...     data_options={"n": 90, "size": 32}, out="results/example-curve", quiet=True,
    ... )
    >>> sorted(set(table["subjects"]))
    [6, 12]
    """
    from reports.subjects import write_curve

    runs = {}
    for number in sorted(set(subjects)):
        place = Path(out) / f"subjects-{number}"
        runs[number] = run(methods, data, subjects=number, out=place, **settings).folder
    return write_curve(runs, Path(out))


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
    >>> results = hb.run(
    ...     ["combat"], "phantom", preset="smoke", metrics=["truth_mae"],
    ...     data_options={"n": 90, "size": 32}, out="results/example", quiet=True,
    ... )
    >>> hb.load("results/example").scores.equals(results.scores)
    True
    """
    return Results(folder)


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
    >>> folders = hb.train(
    ...     ["combat"], "phantom", preset="smoke", data_options={"n": 400, "size": 32},
    ...     out="weights/example", quiet=True,
    ... )
    >>> [folder.name for folder in folders]
    ['combat']
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
    folds: int | None = None,
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
    data, config, preset, reference_site, data_seed, folds, threads, device, data_options
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
    >>> made = hb.harmonize(
    ...     "combat", "harmonized", "phantom", preset="smoke",
    ...     data_options={"n": 90, "size": 32}, quiet=True,
    ... )
    >>> len(made.cohort)
    90
    """
    from harmbench.exchange.harmonize import harmonize as write

    given = {
        "data": data,
        "preset": preset,
        "reference_site": reference_site,
        "data_seed": data_seed,
        "folds": folds,
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
    plugins = {name: registry.load(kind, name) for name in registry.names(kind)}
    infos = {name: vars(registry.info_of(plugin)) for name, plugin in plugins.items()}
    return pd.DataFrame.from_dict(infos, orient="index").rename_axis("name").drop(columns="name")
