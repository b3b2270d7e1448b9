"""A toy data set of blobs with sites, age, sex and a known truth, made in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort, RowKey
from harmbench.contracts.dataset import Dataset, DatasetInfo
from harmbench.errors import unknown
from harmbench.progress import Progress
from harmbench.seeding import rng_from

NOISE = 0.02


class ToyDataset(Dataset):
    """Bright ellipsoids with a dark core that grows with age, imaged with a gain per site.

    It is for contract checks and tests; results on it are not about brains. Every scan is a
    function of the seed, its subject and its site.

    Parameters
    ----------
    n : int
        Number of subjects, with one scan each, assigned to the sites in turn.
    sites : int
        Number of sites ``"site-a"``, ``"site-b"``, ...; the first is the reference and the
        youngest.
    shape : tuple of int
        Shape of one image; the sides may differ.
    strength : float
        Size of the site effect; 0 for none.
    seed : int
        Seed of the subjects and the sites.
    """

    def __init__(
        self,
        n: int = 60,
        sites: int = 3,
        shape: tuple[int, ...] = (16, 16),
        strength: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.n = n
        self.sites = sites
        self.shape = shape
        self.strength = strength
        self.seed = seed

    @property
    def info(self) -> DatasetInfo:
        """Description of the data set."""
        return DatasetInfo(
            name="toy",
            label="Toy blobs",
            summary="Blobs with an age effect and a gain per site, for checks.",
            has_truth=True,
        )

    @property
    def fingerprint(self) -> str:
        """Version and parameters."""
        return f"toy-1-{self.n}-{self.sites}-{self.shape}-{self.strength}-{self.seed}"

    @property
    def reference_site(self) -> str:
        """The first site."""
        return self.site_names[0]

    @property
    def site_names(self) -> list[str]:
        """Names of the sites, sorted."""
        return [f"site-{chr(ord('a') + i)}" for i in range(self.sites)]

    def load(self, progress: Progress | None = None) -> Cohort:
        """Return the whole cohort."""
        table = pd.DataFrame([self._subject(i) for i in range(self.n)])
        table["site"] = [self.site_names[i % self.sites] for i in range(self.n)]
        rows = range(self.n)
        images = np.stack([self._scan(i, table["site"][i], draw=-1) for i in rows])
        mask = np.stack([self._radius(i) < 1.0 for i in rows])
        return Cohort(images, table, mask, "slice" if len(self.shape) == 2 else "volume")

    def truth(
        self, site: str, keys: Sequence[RowKey], clean: bool = False, draw: int = 0
    ) -> NDArray[np.float32]:
        """Return the scans of subjects at `site`, see `Dataset.truth`."""
        if site not in self.site_names:
            raise unknown("site", site, self.site_names)
        numbers = [int(key.participant_id.removeprefix("toy-")) for key in keys]
        scans = [self._scan(i, site, None if clean else draw) for i in numbers]
        return np.array(scans, dtype=np.float32).reshape(len(keys), *self.shape)

    def _subject(self, i: int) -> dict[str, object]:
        rng = rng_from("toy subject", self.seed, i)
        older = 10.0 * (i % self.sites)
        return {
            "participant_id": f"toy-{i:04d}",
            "session_id": "",
            "slice": 0,
            "age": round(float(rng.uniform(20.0, 70.0) + older), 1),
            "sex": "F" if rng.random() < 0.5 else "M",
        }

    def _radius(self, i: int) -> NDArray[np.float64]:
        """Return each voxel's distance from the center, 1 at the edge of the head."""
        rng = rng_from("toy head", self.seed, i)
        axes = [(np.arange(s) - (s - 1) / 2) / ((s - 1) / 2) for s in self.shape]
        grids = np.meshgrid(*axes, indexing="ij")
        widths = rng.uniform(0.85, 0.95, size=len(self.shape))
        return np.sqrt(sum((g / w) ** 2 for g, w in zip(grids, widths, strict=True)))

    def _scan(self, i: int, site: str, draw: int | None) -> NDArray[np.float32]:
        """Return one scan; draw None is without noise, -1 is the scan of the cohort."""
        subject, radius = self._subject(i), self._radius(i)
        core = 0.3 + 0.004 * (float(str(subject["age"])) - 20.0)
        sex = 0.05 if subject["sex"] == "M" else 0.0
        clean = 0.7 - 0.4 * np.exp(-((radius / core) ** 2)) + sex * radius
        gain, bias = self._scanner(site)
        seen = clean * (1.0 + gain * self.strength) + bias * self.strength * (1.0 - radius)
        if draw is not None:
            seen = seen + NOISE * rng_from("toy noise", self.seed, i, site, draw).standard_normal(
                self.shape
            )
        return np.where(radius < 1.0, seen, 0.0).astype(np.float32)

    def _scanner(self, site: str) -> tuple[float, float]:
        if site == self.reference_site:
            return 0.0, 0.0
        rng = rng_from("toy scanner", self.seed, site)
        sign = 1.0 if self.site_names.index(site) % 2 else -1.0
        return sign * float(rng.uniform(0.1, 0.2)), float(rng.uniform(-0.1, 0.1))
