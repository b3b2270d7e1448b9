"""The phantom as a data set: its table, images and truth."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from harmbench.contracts.cohort import Cohort, RowKey
from harmbench.contracts.dataset import Dataset, DatasetInfo, Note
from harmbench.data.geometry import centered
from harmbench.data.phantom.anatomy import FIELD_OF_VIEW, make_grid, tissue
from harmbench.data.phantom.render import SiteScanner, render
from harmbench.data.phantom.scanner import REFERENCE_SITE, Scanner, draw_scanner
from harmbench.data.phantom.subjects import SITE_SHARES, Subjects, demography, draw_subjects
from harmbench.data.phantom.template import template
from harmbench.errors import HarmbenchError, unknown
from harmbench.progress import Progress
from harmbench.seeding import seed_from

PHANTOM_VERSION = 1
"""Increased when any image changes; results of different versions are not comparable."""
BLOCK = 48
"""Number of slices of 64 x 64 pixels per block (fewer if they are larger)."""
SCAN, RESCAN = "scan", "rescan"
DEV_SEED = 1001
"""Scanner and subject seed of ``phantom-dev``."""
PREFIX = "sub-"


class Phantom(Dataset):
    """Simulated axial T1-weighted slices of people scanned at several sites.

    The anatomy is that of the ICBM 152 template. The images follow from the signal equations of the
    sequences. See ``docs/phantom.md``.

    Parameters
    ----------
    n : int
        Number of subjects, 2 to 99,999; sites have different shares (of seven, at least 9 %).
    n_sites : int
        Number of sites, 2 to 12.
    size : int
        Pixels along a side of the image, 16 to 256; the field of view is always 200 mm.
    strength : float
        Site effect: 0 (every site has the reference scanner) to 2; 1 for the simulated scanners.
    confounding : float
        Share of the variance of age that site explains (eta squared), 0 to 0.9.
    nonlinear : float
        Share of the site effect in contrast, point spread and distortion, which a shift and scale
        per pixel cannot remove: 0 to 2.
    jitter : float
        Standard deviation of the slice's height in mm, 0 to 6; that of its tilt is half this value
        in degrees.
    site_effect : bool
        False is the same as `strength` 0.
    biology : bool
        False makes the images independent of age and sex.
    travelling : int
        Number of subjects, the first ones, who are scanned at every site, 0 to `n`.
    scanner_seed, subject_seed : int
        Seeds of the scanners and of the people; 0 or more.

    Raises
    ------
    HarmbenchError
        If a value is outside its range.
    """

    cached = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"n": 400, "n_sites": 4, "size": 48},
        "standard": {},
        "paper": {"n": 4120, "size": 128},
    }

    notes = (Note(f"a simulation, version {PHANTOM_VERSION}; no file of data is read", "read"),)

    def __init__(
        self,
        *,
        n: int = 1400,
        n_sites: int = 7,
        size: int = 64,
        strength: float = 1.0,
        confounding: float = 0.25,
        nonlinear: float = 1.0,
        jitter: float = 2.0,
        site_effect: bool = True,
        biology: bool = True,
        travelling: int = 0,
        scanner_seed: int = 1,
        subject_seed: int = 1,
    ) -> None:
        self.n = _within("n", n, 2, 99_999, "subjects")
        self.n_sites = _within("n_sites", n_sites, 2, len(SITE_SHARES), "sites")
        self.size = _within("size", size, 16, 256, "pixels")
        self.strength = _within("strength", strength, 0.0, 2.0)
        self.confounding = _within("confounding", confounding, 0.0, 0.9)
        self.nonlinear = _within("nonlinear", nonlinear, 0.0, 2.0)
        self.jitter = _within("jitter", jitter, 0.0, 6.0, "mm")
        self.site_effect = bool(site_effect)
        self.biology = bool(biology)
        self.travelling = _within("travelling", travelling, 0, self.n, "subjects")
        self.scanner_seed = _within("scanner_seed", scanner_seed, 0, 2**62)
        self.subject_seed = _within("subject_seed", subject_seed, 0, 2**62)

    @property
    def info(self) -> DatasetInfo:
        """Description of the data set."""
        return DatasetInfo(
            name="phantom-dev" if self.scanner_seed == DEV_SEED else "phantom",
            label="Digital phantom" + (" (development)" if self.scanner_seed == DEV_SEED else ""),
            summary="Simulated T1-weighted axial slices on the ICBM 152 anatomy, with known truth.",
            license="BSD-3-Clause (code); ICBM 152 template: see NOTICE",
            doi="10.1016/j.neuroimage.2010.07.033",
            has_truth=True,
        )

    @property
    def knobs(self) -> dict[str, Any]:
        """The values of the constructor's arguments."""
        return dict(vars(self))

    @property
    def fingerprint(self) -> str:
        """Version and a hash of the arguments."""
        text = json.dumps(self.knobs, sort_keys=True)
        return f"phantom-v{PHANTOM_VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @property
    def reference_site(self) -> str:
        """The reference site, the same in every phantom."""
        return REFERENCE_SITE

    @property
    def spacing_mm(self) -> float:
        """Side of a pixel in mm."""
        return FIELD_OF_VIEW / self.size

    @property
    def sites(self) -> list[str]:
        """Names of the sites."""
        return [f"site{chr(ord('A') + k)}" for k in range(self.n_sites)]

    @property
    def weights(self) -> tuple[float, float]:
        """Weights of the linear and the nonlinear site effects; 0 for the reference scanner."""
        strength = self.strength if self.site_effect else 0.0
        return strength, strength * self.nonlinear

    @property
    def probe_gate(self) -> tuple[str, float] | None:
        """At default strength a CNN recognizes the site of 95 % of the unharmonized images."""
        return ("site_bacc", 0.95) if min(self.weights) >= 1 and self.n >= 1000 else None

    def with_data_seed(self, seed: int) -> Self:
        """Return the phantom with the same scanners and other people."""
        people = seed_from("people", self.subject_seed, seed) >> 1
        return type(self)(**{**self.knobs, "subject_seed": people})

    def scanner(self, site: str) -> Scanner:
        """Return the scanner of a site at strength 1."""
        if site not in self.sites:
            raise unknown("site", site, self.sites)
        return draw_scanner(self.scanner_seed, site)

    def subjects(self, indices: Sequence[int] | NDArray[np.int64]) -> Subjects:
        """Return subjects by their numbers."""
        index = np.asarray(indices, dtype=np.int64)
        return draw_subjects(self.subject_seed, index, self.n_sites, self.confounding)

    def load(self, progress: Progress | None = None) -> Cohort:
        """Return `n` subjects at their own sites, then travelling subjects at the other sites."""
        table = self.table()
        index = table["participant_id"].str.removeprefix(PREFIX).to_numpy(dtype=np.int64)
        images, masks = self._scan(index, table["site"].tolist(), (SCAN,), progress or Progress())
        return Cohort(images, table, masks)

    def table(self) -> pd.DataFrame:
        """Return the participants table without computing images."""
        index = np.arange(self.n)
        home, age, male = demography(self.subject_seed, index, self.n_sites, self.confounding)
        rows = np.repeat(np.arange(self.travelling), self.n_sites)
        site = np.tile(np.arange(self.n_sites), self.travelling)
        away = site != home[rows]
        rows, site = np.append(index, rows[away]), np.append(home, site[away])
        return pd.DataFrame(
            {
                "participant_id": [f"{PREFIX}{i:05d}" for i in rows],
                "session_id": "",
                "slice": 0,
                "site": [self.sites[s] for s in site],
                "age": age[rows],
                "sex": np.where(male[rows] > 0, "M", "F").astype(object),
            }
        )

    def truth(
        self, site: str, keys: Sequence[RowKey], clean: bool = False, draw: int = 0
    ) -> NDArray[np.float32]:
        """Return scans of the subjects at `site`; see `Dataset.truth`.

        Raises
        ------
        HarmbenchError
            If the phantom does not have this site or a participant, or `draw` is negative.
        """
        self.scanner(site)  # it raises if the site is unknown
        _within("draw", draw, 0, 2**62)
        index = np.array([self._index(key) for key in keys], dtype=np.int64)
        scan = None if clean else (RESCAN, draw)
        return self._scan(index, [site] * len(index), scan, Progress())[0]

    def geometry(self, keys: Sequence[RowKey]) -> NDArray[np.float64]:
        """Return affines with the origin in the middle of every slice."""
        affine = centered((self.size, self.size), self.spacing_mm)
        return np.broadcast_to(affine, (len(keys), 4, 4)).copy()

    def _index(self, key: RowKey) -> int:
        name = key.participant_id
        digits = name.removeprefix(PREFIX)
        if name != f"{PREFIX}{digits}" or not digits.isdecimal() or int(digits) >= self.n:
            raise HarmbenchError(
                f"participant '{name}' is not in this phantom, which has {PREFIX}00000 to "
                f"{PREFIX}{self.n - 1:05d}; take the keys from its own cohort"
            )
        return int(digits)

    def _scan(
        self,
        index: NDArray[np.int64],
        sites: list[str],
        scan: tuple[str | int, ...] | None,
        progress: Progress,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Scan subject `index[i]` at `sites[i]`; scan None is without noise and drift."""
        images = np.empty((len(index), self.size, self.size), dtype=np.float32)
        masks = np.empty(images.shape, dtype=bool)
        block = max(1, BLOCK * 64**2 // self.size**2)
        names = np.array(sites)
        jobs = [
            (str(site), rows[start : start + block])
            for site in sorted(set(sites))
            for rows in [np.flatnonzero(names == site)]
            for start in range(0, len(rows), block)
        ]
        template()  # it is loaded once here, not once in each thread

        def render_rows(job: tuple[str, NDArray[np.int64]]) -> int:
            site, rows = job
            names = None
            if scan is not None:
                seeds = (self.subject_seed, self.scanner_seed)
                names = [(*seeds, int(i), site, *scan) for i in index[rows]]
            images[rows], masks[rows] = self.render(self.subjects(index[rows]), site, names)
            return len(rows)

        # Threads do not accelerate products of small matrices, and would change their last bits.
        with (
            threadpool_limits(limits=1, user_api="blas"),
            progress.task("Scanning the phantom", len(index)) as task,
            ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool,
        ):
            for done in pool.map(render_rows, jobs):
                task.advance(done)
        return images, masks

    def render(
        self, people: Subjects, site: str, scans: Sequence[tuple[str | int, ...]] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return images and masks of people at a site; `scans` seed noise and drift."""
        people = people if self.biology else people.alike()
        grid = make_grid(self.size)
        maps = tissue(people, grid, self.jitter)
        scanner = SiteScanner(self.scanner(site), self.scanner(REFERENCE_SITE), *self.weights)
        return render(maps, people, grid, scanner, scans)


def phantom_dev(**knobs: Any) -> Phantom:
    """Return a phantom with other scanners and other people, for development and tuning.

    The arguments are those of `Phantom`; only the defaults of the two seeds differ.
    """
    return Phantom(**{"scanner_seed": DEV_SEED, "subject_seed": DEV_SEED, **knobs})


class EffectMaps(NamedTuple):
    """True mean effects at a site, each of shape (size, size).

    `age` is the change of intensity per year, `sex` the change from women to men.
    """

    age: NDArray[np.float32]
    sex: NDArray[np.float32]


def effect_maps(phantom: Phantom, site: str = REFERENCE_SITE, people: int = 96) -> EffectMaps:
    """Return the mean change of the clean image with a subject's age or sex, all else being equal.

    The age effect is the slope of a least-squares line through each subject's images at 25, 40, 55,
    70 and 85 years: a mean over adult life, because the phantom's aging accelerates.

    Parameters
    ----------
    phantom : Phantom
    site : str
        Site of the scans.
    people : int
        Number of subjects for the mean, the first ones of the phantom.
    """
    subjects = phantom.subjects(np.arange(min(people, phantom.n)))
    ages = np.array([25.0, 40.0, 55.0, 70.0, 85.0])
    weights = (ages - ages.mean()) / np.square(ages - ages.mean()).sum()

    def mean_image(**changed: float) -> NDArray[np.float64]:
        columns = {name: np.full(len(subjects), value) for name, value in changed.items()}
        images, _ = phantom.render(replace(subjects, **columns), site)
        return images.mean(0, dtype=np.float64)

    images = [mean_image(age=age) for age in ages]
    slope = sum(w * image for w, image in zip(weights, images, strict=True))
    women, men = mean_image(male=0.0), mean_image(male=1.0)
    return EffectMaps(np.asarray(slope, dtype=np.float32), (men - women).astype(np.float32))


def _within(name: str, value: Any, low: float, high: float, unit: str = "") -> Any:
    """Return `value` with the type of the bounds; it must be between them."""
    kind = type(low)
    good = isinstance(value, int | np.integer | (float if kind is float else int))
    if not good or isinstance(value, bool) or not low <= value <= high:
        noun = "a number" if kind is float else "a whole number"
        raise HarmbenchError(
            f"phantom: {name} is {value!r}; give {noun} from {low} to {high} {unit}".rstrip()
        )
    return kind(value)
