"""Images that were harmonized outside, scored in the same table as the suite's own methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harmbench.config import MethodSpec
from harmbench.data.bids_layout import read_object
from harmbench.data.bids_write import Name, names_of
from harmbench.data.problems import MOST_SHOWN, printable
from harmbench.engine.layout import Layout
from harmbench.errors import HarmbenchError
from harmbench.exchange.folder import EXPORT, HARMONIZE, affines_of
from harmbench.exchange.returned import Files, read_slice
from harmbench.progress import Progress

METHOD = "returned"
SCALE = 2.0
"""Factor between the mean brightness of returned and of exported images from which to wonder."""


def returned_spec(folder: Path, name: str) -> MethodSpec:
    """Return the row of a table that stands for a folder of harmonized images.

    Parameters
    ----------
    folder : Path
        Holds them under the names of `harmbench.exchange.export.export`, or as
        `harmbench.exchange.harmonize.harmonize` wrote them.
    name : str
        What the row is called.

    Raises
    ------
    HarmbenchError
        Where there is no such folder, it holds no image, or the name is empty or not printable.
    """
    if not name.strip() or not name.isprintable():
        raise HarmbenchError(f'--name {name!r}: give a name for the row, such as "my method"')
    if not folder.is_dir():
        raise HarmbenchError(f"--harmonized: there is no folder {folder}")
    place = folder.resolve()
    params = {"folder": str(place), "content": Files(place).content}
    return MethodSpec(name=METHOD, label=name.strip(), params=params)


def check(layout: Layout, spec: MethodSpec, progress: Progress) -> None:
    """Refuse returned images that are not of this run's data; all that is wrong at once.

    Parameters
    ----------
    layout : Layout
        The run that they are to be scored in.
    spec : MethodSpec
        What `returned_spec` returned.
    progress : Progress
        Where to show how far it is, and to say what is odd.

    Raises
    ------
    HarmbenchError
        For images of other data, another split or target; for missing, doubled or unreadable
        files; for other grids and values that are not finite; for a name that the run has already.
    """
    _check_name(layout, spec)
    folder = Path(spec.params["folder"])
    _check_origin(layout, folder)
    files = Files(folder)
    names = names_of(layout.experiment.cohort.participants)
    problems = _missing(layout, files, names)
    remarks, more = _read(layout, files, names, progress)
    strangers = _strangers(files, names)
    _refuse(folder, problems + more, strangers)
    for remark in filter(None, [*remarks, strangers]):
        progress.message(f"{spec.title}: {remark}")


def _check_name(layout: Layout, spec: MethodSpec) -> None:
    """Refuse a name by which the row would take the place of a method's."""
    folder = layout.experiment.folder
    held = folder.config["run"]["methods"] if folder.config_file.is_file() else []
    others = [MethodSpec.model_validate(one) for one in held]
    if any(one.title == spec.title and one.name != METHOD for one in others):
        raise HarmbenchError(
            f"--name '{spec.title}': {folder.root} has a method of that name; give another"
        )


def _check_origin(layout: Layout, folder: Path) -> None:
    """Compare what the folder says of its own origin, where it says anything."""
    here = layout.identity
    for file, site in ((HARMONIZE, "target"), (EXPORT, "reference_site")):
        said = read_object(folder / file)
        expected: Mapping[str, Any] = {
            "fingerprint": here["fingerprint"],
            "data_seed": here["data_seed"],
            site: here["reference_site"],
        }
        unlike = [
            f"{name} is {printable(repr(said[name]))} there and {value!r} here"
            for name, value in expected.items()
            if name in said and said[name] != value
        ]
        if unlike:
            raise HarmbenchError(
                f"{folder / file}: its images are not of this run: {'; '.join(unlike)}. Give "
                "--data, its options, --preset, --data-seed and --reference-site as they were for "
                "the export"
            )
        if said:
            return


def _required(layout: Layout, files: Files, names: Sequence[Name]) -> np.ndarray:
    """Return the rows that must have an image: all, but a fit part that was left out altogether."""
    required = np.ones(len(names), dtype=bool)
    fit = layout.split.part == "fit"
    if not any(files.of(names[row]) for row in np.flatnonzero(fit)):
        required[fit] = False
    return required


def _missing(layout: Layout, files: Files, names: Sequence[Name]) -> list[str]:
    problems = []
    parts = layout.split.part
    for row in np.flatnonzero(_required(layout, files, names)):
        mine = files.of(names[row])
        if not mine:
            problems.append(f"{names[row].file('*')}: there is no image of it (part {parts[row]})")
        elif len(mine) > 1:
            both = " and ".join(file.name for file in mine)
            problems.append(f"{both} are two images of one slice; delete one")
    return problems


def _read(
    layout: Layout, files: Files, names: Sequence[Name], progress: Progress
) -> tuple[list[str], list[str]]:
    """Read every image; return what is odd about them, and what is wrong with them."""
    cohort = layout.experiment.cohort
    affines, _ = affines_of(layout.experiment.dataset, cohort)
    problems: list[str] = []
    unchanged, ratios = [], []
    with progress.task("checking images", len(cohort)) as task:
        for row, name in enumerate(names):
            mine = files.of(name)
            if len(mine) == 1:
                try:
                    image = read_slice(mine[0], cohort.shape, affines[row])
                except HarmbenchError as error:
                    place = mine[0].relative_to(files.folder).as_posix()
                    problems.append(f"{place}: {error}")
                else:
                    unchanged.append(np.array_equal(image, cohort.images[row]))
                    ratios.append(_ratio(image, cohort.images[row], cohort.mask[row]))
            task.advance(note=name.subject)
    return _remarks(unchanged, ratios), problems


def _ratio(image: np.ndarray, exported: np.ndarray, mask: np.ndarray) -> float:
    before = float(np.abs(exported[mask]).mean()) if mask.any() else 0.0
    return float(np.abs(image[mask]).mean()) / before if before else 1.0


def _remarks(unchanged: Sequence[bool], ratios: Sequence[float]) -> list[str]:
    if unchanged and all(unchanged):
        return ["every image equals the exported one; is this the folder of the export?"]
    middle = float(np.median(ratios)) if ratios else 1.0
    if not 1 / SCALE <= middle <= SCALE:
        return [
            f"the images are {middle:.3g} times as bright as the exported ones; they are scored "
            "as they are, without rescaling"
        ]
    return []


def _strangers(files: Files, names: Sequence[Name]) -> str:
    """Say how many images are of other scans, ``""`` where none is."""
    own = {(name.folder / name.stem).as_posix() for name in names}
    others = [place for place in files.by_place if place not in own]
    if not others:
        return ""
    verb = "image is" if len(others) == 1 else "images are"
    return f"{len(others)} {verb} of no scan of these data, such as {min(others)}"


def _refuse(folder: Path, problems: Sequence[str], strangers: str) -> None:
    if not problems:
        return
    count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
    said = "; ".join(filter(None, [count, printable(strangers)]))
    lines = [f"the images in {folder} cannot be scored, {said}:"]
    lines += [f"- {printable(problem)}" for problem in problems[:MOST_SHOWN]]
    if len(problems) > MOST_SHOWN:
        lines.append(f"... and {len(problems) - MOST_SHOWN} more")
    raise HarmbenchError("\n".join(lines))
