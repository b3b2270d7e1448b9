"""From a configuration to saved weights: cohort -> split -> fit, once for each method and seed.

A folder is empty, holds an unfinished training (``checkpoints/``), or a finished one
(``card.json``, written last). Whatever else it holds is left alone.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harmbench import __version__
from harmbench.config import MethodSpec, RunConfig, build_dataset, build_method, require_unchanged
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import Dataset
from harmbench.contracts.method import Harmonizer
from harmbench.data.cache import load_cohort
from harmbench.data.splits import make_split
from harmbench.engine.fit_jobs import Job, fit_together, fitted
from harmbench.engine.keys import folder_name
from harmbench.engine.layout import reference_site
from harmbench.engine.log import timed, work_log
from harmbench.engine.saved_weights import completed, data_facts, recipe
from harmbench.errors import DISK_CLOSED, DISK_FULL, HarmbenchError
from harmbench.files.atomic import LOCK, UNFINISHED, held, read_json, sweep, write_json
from harmbench.progress import Progress
from harmbench.training.cards import (
    CARD,
    Card,
    Recipe,
    differences,
    file_hashes,
    images_seen,
    read_card,
    thinned,
)
from harmbench.training.group import is_first, torchrun_size
from harmbench.training.precision import precision_of

CHECKPOINTS = "checkpoints"
STATE = "training.json"


@dataclass(frozen=True)
class Place:
    """The folder of one training, and what stands in it.

    Attributes
    ----------
    folder : Path
        ``<out>/<label>`` for seed 0, ``<out>/<label>/seed-<s>`` for the others.
    spec : MethodSpec
        The method.
    recipe : Recipe
        What is to be made here.
    """

    folder: Path
    spec: MethodSpec
    recipe: Recipe

    @property
    def checkpoints(self) -> Path:
        """Where an unfinished training keeps its state."""
        return self.folder / CHECKPOINTS

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"{self.spec.title}, seed {self.recipe.seed}"

    @property
    def finished(self) -> bool:
        """Whether everything is there."""
        return (self.folder / CARD).is_file()

    @property
    def seconds(self) -> float:
        """What earlier stretches of the training have spent."""
        state = self.checkpoints / STATE
        return float(read_json(state)["seconds"]) if state.is_file() else 0.0

    def note(self, seconds: float) -> None:
        """Write down what is being made here, and the seconds spent on it."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        content = {"recipe": self.recipe.model_dump(mode="json"), "seconds": seconds}
        write_json(self.checkpoints / STATE, content)

    def check(self, method: Harmonizer) -> None:
        """Refuse a folder that holds another training or other files.

        Parameters
        ----------
        method : Harmonizer
            What is to be trained.

        Raises
        ------
        HarmbenchError
            Naming each difference, and the fix.
        """
        state = self.checkpoints / STATE
        if self.finished:
            held, noun = read_card(self.folder).recipe, "a finished"
        elif state.is_file():
            held, noun = Recipe.model_validate(read_json(state)["recipe"]), "an unfinished"
        elif self.folder.is_file() or self._strangers():
            raise HarmbenchError(
                f"--out: {self.folder} holds files that no training left there; give a new folder"
            )
        else:
            return
        gaps = differences(completed(held, method), self.recipe, type(method).inference)
        if gaps:
            raise HarmbenchError(
                f"{self.folder} holds {noun} training of another recipe: {'; '.join(gaps)}. A "
                "training keeps the budget and the settings that it began with: give another "
                "--out, repeat its own settings, or delete that folder"
            )

    def _strangers(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        names = [path.name for path in self.folder.iterdir()]
        return [n for n in names if n not in (CHECKPOINTS, LOCK) and not n.startswith("seed-")]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one process; other seeds may be trained in folders inside it."""
        try:
            with held(self.folder, "training"):
                if self.finished:
                    raise HarmbenchError(
                        f"another training has just finished in {self.folder}; give the same "
                        "command again to go on from there"
                    )
                sweep([*self.folder.iterdir(), *self.checkpoints.rglob("*")])
                yield
                # Whoever still waits with this file open finds the folder finished.
                (self.folder / LOCK).unlink(missing_ok=True)
        except OSError as error:
            if error.errno not in DISK_FULL | DISK_CLOSED:
                raise  # the method's own
            raise HarmbenchError(f"--out {self.folder} cannot be written: {error}") from error


@dataclass(frozen=True)
class Material:
    """What all trainings of a command share."""

    config: RunConfig
    dataset: Dataset
    cohort: Cohort
    facts: dict[str, Any]
    command: str
    devices: int

    @property
    def together(self) -> int:
        """How many processes train one model."""
        return max(self.devices, torchrun_size())


def train(
    config: RunConfig,
    out: Path,
    progress: Progress | None = None,
    *,
    seeds: Sequence[int] = (0,),
    command: str = "",
    devices: int = 1,
) -> list[Path]:
    """Fit methods as `harmbench.engine.run.run` would, and save each with a card.

    Parameters
    ----------
    config : RunConfig
        Data, methods, reference site, threads and device; metrics and controls are not read.
    out : Path
        Gets ``<label>/`` (seed 0) and ``<label>/seed-<s>/``: what the method saves, ``card.json``
        and ``README.md``. Trainings that are finished there are left as they are, unfinished ones
        go on.
    progress : Progress or None
        Where to show how far it is.
    seeds : sequence of int
        Method seeds; a method whose result does not depend on them is fitted with the first only.
    command : str
        What the cards name as the command that made them.
    devices : int
        Processes, each with a GPU or a share of the threads, that train one model together. Those
        that ``torchrun`` has started, on one machine or several, do so anyway.

    Returns
    -------
    list of Path
        The folders, all of them finished.

    Raises
    ------
    HarmbenchError
        Before any training where a folder holds something else, a method cannot run on these data,
        or they are so few that they are cross-fitted; afterwards where a training fails.
    KeyboardInterrupt
        After the state is saved; the same call goes on.
    """
    first = is_first()
    progress = progress if progress and first else Progress()
    material = _material(config, command, devices, progress)
    places = _places(material, out, seeds)
    with progress.task("all trainings", len(places)) if len(places) > 1 else _no_task() as task:
        for place in places:
            if place.finished:
                progress.message(f"{place.title}: trained already ({place.folder})")
            else:
                with place.lock() if first else nullcontext():
                    if first:
                        _train(place, material, progress)
                    else:
                        fit_together(_job(place, material), place.checkpoints, devices, progress)
            if task:
                task.advance(1, note=place.title)
    return [place.folder for place in places]


@contextmanager
def _no_task() -> Iterator[None]:
    yield None


def _material(config: RunConfig, command: str, devices: int, progress: Progress) -> Material:
    dataset = build_dataset(config)
    before = dataset.fingerprint
    cohort = load_cohort(dataset, progress)
    split = make_split(cohort, config.data_seed, folds=config.folds)
    if split.cross_fitting:
        raise HarmbenchError(
            f"{split.reason}: these data are cross-fitted, so every method is fitted several times "
            "and there is no one set of weights to save; use `harmbench run`"
        )
    facts = data_facts(config, dataset, split, reference_site(config, dataset, cohort))
    fit_part = cohort.subset(split.scored().fit)
    require_unchanged(config, before)
    return Material(config, dataset, fit_part, facts, command, devices)


def _places(material: Material, out: Path, seeds: Sequence[int]) -> list[Place]:
    """Return the folders to train in, each of them checked."""
    places: dict[Path, Place] = {}
    for spec in material.config.methods:
        method = build_method(spec)
        reason = method.skip(material.cohort)
        if reason:
            raise HarmbenchError(f"{spec.title} cannot be trained on these data: it {reason}")
        for seed in seeds if method.info.stochastic else seeds[:1]:
            base = out / folder_name(spec.title)
            folder = base / f"seed-{seed}" if seed else base
            place = Place(folder, spec, recipe(method, seed, material.facts))
            if folder in places:
                raise HarmbenchError(f"two methods are called '{spec.title}'; give one a label")
            place.check(method)
            places[folder] = place
    return list(places.values())


def _train(place: Place, material: Material, progress: Progress) -> None:
    before = place.seconds
    place.note(before)
    name = f"harmbench.train.{folder_name(place.folder.resolve().as_posix()).replace('.', '_')}"
    log = work_log(place.checkpoints, name)
    start = time.perf_counter()
    try:
        with timed(log, "fit", material.config.threads):
            job = _job(place, material)
            if material.together == 1:
                method = fitted(job, material.dataset, progress, log)
            else:
                with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=job.checkpoints) as folder:
                    fit_together(job, Path(folder), material.devices, progress)
                    method = type(build_method(place.spec)).load(Path(folder))
    finally:
        seconds = before + time.perf_counter() - start
        place.note(seconds)
    _save(place, material, method, seconds)
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    # Nothing goes on from here, and optimizers' states are three times as large as the weights.
    shutil.rmtree(place.checkpoints)


def _job(place: Place, material: Material) -> Job:
    config, site = material.config, material.facts["reference_site"]
    seed = place.recipe.seed
    return Job(config, place.spec, material.cohort, site, seed, place.checkpoints)


def _save(place: Place, material: Material, method: Harmonizer, seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=place.folder) as name:
        method.save(Path(name))
        files = file_hashes(Path(name))
        for file in files:
            (place.folder / file).parent.mkdir(parents=True, exist_ok=True)
            # The content only: the temporary folder and its files are the owner's alone.
            shutil.copyfile(Path(name, file), place.folder / file)
    config, info = material.config, material.dataset.info
    history = method.history
    versions = {"python": platform.python_version(), "harmbench": __version__}
    Card(
        **place.recipe.model_dump(),
        label=place.spec.title,
        command=material.command,
        data_label=info.label,
        data_license=info.license,
        n_fit=len(material.cohort),
        images=images_seen(history),
        seconds=round(seconds, 1),
        device=f"{material.together} x {config.device}".removeprefix("1 x "),
        threads=config.threads,
        precision=precision_of(method.params(), config.device),
        versions=versions | {package: version(package) for package in ("numpy", "torch")},
        history=thinned(history),
        files=files,
    ).write(place.folder)
