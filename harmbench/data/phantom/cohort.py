"""The phantom as a data set: rows, images, truth."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from harmbench.contracts.cohort import Cohort, RowKey
from harmbench.contracts.dataset import Dataset, DatasetInfo, Note
from harmbench.data.geometry import centered
from harmbench.data.phantom.anatomy import FIELD_OF_VIEW, make_grid, tissue
from harmbench.data.phantom.render import Effect, render
from harmbench.data.phantom.scanner import REFERENCE_SITE, Scanner, draw_scanner
from harmbench.data.phantom.subjects import SITE_SHARES, Subjects, demography, draw_subjects
from harmbench.data.phantom.template import template
from harmbench.errors import HarmbenchError, unknown
from harmbench.progress import Progress
from harmbench.seeding import seed_from

PHANTOM_VERSION = 1
"""Raised when any image changes; results of another version are never compared."""
BLOCK = 48
"""Slices of 64 x 64 pixels computed together (fewer where they are larger)."""
SCAN, RESCAN = "scan", "rescan"
DEV_SEED = 1001
"""Scanner and subject seed of ``phantom-dev``."""
PREFIX = "sub-"


class Phantom(Dataset):
    """Simulated axial T1-weighted slices of people scanned at several sites.

    Anatomy comes from the ICBM 152 template, images from the sequences' signal equations; the data
    sheet is ``docs/phantom.md``.

    Parameters
    ----------
    n : int
        Subjects in all, 2 to 99,999; sites have unequal shares (the smallest of seven about 9 %).
    n_sites : int
        Sites, 2 to 12.
    size : int
        Pixels along a side of the image, 16 to 256; the field of view is always 200 mm.
    strength : float
        Site effect: 0 (every site has the reference scanner) to 2; 1 is the drawn scanners.
    confounding : float
        Share of the variance of age that site explains (eta squared), 0 to 0.9.
    nonlinear : float
        Share of the site effect in contrast, point spread and distortion, which no shift and
        scale per pixel undoes: 0 to 2.
    jitter : float
        Standard deviation of the slice's height, mm, 0 to 6; its tilt is half of it in degrees.
    site_effect : bool
        False is the same as `strength` 0.
    biology : bool
        False makes the images independent of age and sex.
    travelling : int
        The first so many subjects are scanned at every site, 0 to `n`.
    scanner_seed, subject_seed : int
        Which scanners and which people; 0 or more.

    Raises
    ------
    HarmbenchError
        For a value outside its range.
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
        """What this data set says about itself."""
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
        """The constructor's arguments as this instance holds them."""
        return dict(vars(self))

    @property
    def fingerprint(self) -> str:
        """Version and a hash of the knobs."""
        text = json.dumps(self.knobs, sort_keys=True)
        return f"phantom-v{PHANTOM_VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @property
    def reference_site(self) -> str:
        """The declared reference site, the same in every phantom."""
        return REFERENCE_SITE

    @property
    def spacing_mm(self) -> float:
        """Side of a pixel, mm."""
        return FIELD_OF_VIEW / self.size

    @property
    def sites(self) -> list[str]:
        """Names of the sites."""
        return [f"site{chr(ord('A') + k)}" for k in range(self.n_sites)]

    @property
    def effect(self) -> Effect:
        """How far the sites' scanners are from the reference's."""
        strength = self.strength if self.site_effect else 0.0
        return Effect(strength, strength * self.nonlinear)

    @property
    def probe_gate(self) -> tuple[str, float] | None:
        """At default strength a CNN tells the sites apart in 95 of 100 unharmonized images."""
        plain = self.effect.linear >= 1 and self.effect.nonlinear >= 1 and self.n >= 1000
        return ("site_bacc", 0.95) if plain else None

    def with_data_seed(self, seed: int) -> Self:
        """Return the phantom with the same scanners and other people."""
        people = seed_from("people", self.subject_seed, seed) >> 1
        return type(self)(**{**self.knobs, "subject_seed": people})

    def scanner(self, site: str) -> Scanner:
        """Return a site's scanner as drawn, at strength 1."""
        if site not in self.sites:
            raise unknown("site", site, self.sites)
        return draw_scanner(self.scanner_seed, site)

    def subjects(self, indices: Sequence[int] | NDArray[np.int64]) -> Subjects:
        """Return these subjects, by number."""
        index = np.asarray(indices, dtype=np.int64)
        return draw_subjects(self.subject_seed, index, self.n_sites, self.confounding)

    def load(self, progress: Progress | None = None) -> Cohort:
        """Return the cohort: `n` subjects at their sites, then the travelling subjects' others."""
        table = self.table()
        index = table["participant_id"].str.removeprefix(PREFIX).to_numpy(dtype=np.int64)
        images, masks = self._scan(index, table["site"].tolist(), (SCAN,), progress or Progress())
        return Cohort(images, table, masks)

    def table(self) -> pd.DataFrame:
        """Return the participants table without computing an image."""
        index = np.arange(self.n)
        who = demography(self.subject_seed, index, self.n_sites, self.confounding)
        rows = np.repeat(np.arange(self.travelling), self.n_sites)
        site = np.tile(np.arange(self.n_sites), self.travelling)
        away = site != who.site[rows]
        rows, site = np.append(index, rows[away]), np.append(who.site, site[away])
        return pd.DataFrame(
            {
                "participant_id": [f"{PREFIX}{i:05d}" for i in rows],
                "session_id": "",
                "slice": 0,
                "site": [self.sites[s] for s in site],
                "age": who.age[rows],
                "sex": np.where(who.male[rows] > 0, "M", "F").astype(object),
            }
        )

    def truth(
        self, site: str, keys: Sequence[RowKey], clean: bool = False, draw: int = 0
    ) -> NDArray[np.float32]:
        """Return the named subjects as scanned at `site`; see `Dataset.truth`.

        Raises
        ------
        HarmbenchError
            For a site or a participant that this phantom does not have, or a negative draw.
        """
        if site not in self.sites:
            raise unknown("site", site, self.sites)
        _within("draw", draw, 0, 2**62)
        index = np.array([self._index(key) for key in keys], dtype=np.int64)
        scan = None if clean else (RESCAN, draw)
        return self._scan(index, [site] * len(index), scan, Progress())[0]

    def geometry(self, keys: Sequence[RowKey]) -> NDArray[np.float64]:
        """Return every slice in the middle of the axes right, anterior, superior."""
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
        """Scan subject `index[i]` at `sites[i]`, block by block."""
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
        work = self._renderer(index, scan)

        def one(job: tuple[str, NDArray[np.int64]]) -> int:
            site, rows = job
            images[rows], masks[rows] = work(site, rows)
            return len(rows)

        # Products of small matrices gain nothing from threads of their own, and their last bits
        # would depend on them.
        with (
            threadpool_limits(limits=1, user_api="blas"),
            progress.task("Scanning the phantom", len(index)) as task,
            ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool,
        ):
            for done in pool.map(one, jobs):
                task.advance(done)
        return images, masks

    def _renderer(
        self, index: NDArray[np.int64], scan: tuple[str | int, ...] | None
    ) -> Callable[[str, NDArray[np.int64]], tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        template()  # loaded here, or every thread would load it for itself
        grid = make_grid(self.size)
        reference = self.scanner(REFERENCE_SITE)
        effect = self.effect

        def work(
            site: str, rows: NDArray[np.int64]
        ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
            people = self.subjects(index[rows])
            if not self.biology:
                people = people.alike()
            maps = tissue(people, grid, self.jitter)
            names = None
            if scan is not None:
                seeds = (self.subject_seed, self.scanner_seed)
                names = [(*seeds, int(i), site, *scan) for i in index[rows]]
            return render(maps, people, grid, self.scanner(site), reference, effect, names)

        return work


def phantom_dev(**knobs: Any) -> Phantom:
    """Return a phantom with other scanners and other people, for all development and tuning.

    Parameters
    ----------
    **knobs
        As for `Phantom`; only the defaults of the two seeds differ.
    """
    return Phantom(**{"scanner_seed": DEV_SEED, "subject_seed": DEV_SEED, **knobs})


def _within(name: str, value: Any, low: float, high: float, unit: str = "") -> Any:
    """Return `value` as the bounds' type where it lies between them."""
    kind = type(low)
    good = isinstance(value, int | np.integer | (float if kind is float else int))
    if not good or isinstance(value, bool) or not low <= value <= high:
        noun = "a number" if kind is float else "a whole number"
        raise HarmbenchError(
            f"phantom: {name} is {value!r}; give {noun} from {low} to {high} {unit}".rstrip()
        )
    return kind(value)
