"""Age, sex and site as the numbers that the label encoder takes, learned on the fit part."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harmbench.contracts.cohort import Cohort
from harmbench.errors import HarmbenchError

SEXES = {"F": 0, "M": 1}
NOT_TOLD = 2
"""Code of a sex that is not told."""
LOG = logging.getLogger("harmbench.ddae")


@dataclass(frozen=True)
class LabelCoding:
    """How labels become numbers.

    Attributes
    ----------
    sites : tuple of str
        Sites of the fit, sorted.
    age_mean, age_std : float
        Years.
    age_median : float
        What a missing age becomes, years.
    sex_mode : str
        What a missing sex becomes.
    """

    sites: tuple[str, ...]
    age_mean: float
    age_std: float
    age_median: float
    sex_mode: str

    @classmethod
    def learn(cls, cohort: Cohort) -> LabelCoding:
        """Learn from the fit part.

        Raises
        ------
        HarmbenchError
            Where no scan has an age, or none a sex.
        """
        ages = cohort.column("age").astype(float)
        sexes = [s for s in cohort.column("sex") if s in SEXES]
        if np.isnan(ages).all() or not sexes:
            raise HarmbenchError(
                "ddae learns from age and sex, and no scan of the fit has both; "
                "add the columns age and sex to the participants table"
            )
        return cls(
            sites=tuple(cohort.sites),
            age_mean=float(np.nanmean(ages)),
            age_std=float(np.nanstd(ages)) or 1.0,
            age_median=float(np.nanmedian(ages)),
            sex_mode=max(sorted(SEXES), key=sexes.count),
        )

    def tensors(
        self, cohort: Cohort, site: str | None, told: bool, log: logging.Logger
    ) -> dict[str, Tensor]:
        """Return ``age``, ``sex`` and ``site`` of every row.

        Parameters
        ----------
        cohort : Cohort
            Sees ``site``, and ``age`` and ``sex`` where they are told.
        site : str or None
            Of all rows; None for each row's own.
        told : bool
            Whether age and sex are told.
        log : Logger
            Where assumed values are counted.
        """
        sites = cohort.column("site").astype(str) if site is None else np.repeat(site, len(cohort))
        unseen = sorted(set(sites) - set(self.sites))
        if unseen:
            raise HarmbenchError(
                f"ddae was fitted on the sites {', '.join(self.sites)} and does not know: "
                f"{', '.join(unseen)}; fit it on a cohort with them, or leave them out"
            )
        age = np.full(len(cohort), np.nan, dtype=np.float32)
        sex = np.full(len(cohort), NOT_TOLD)
        if told:
            age, sex = self._covariates(cohort, log)
        return {
            "age": torch.as_tensor(age, dtype=torch.float32),
            "sex": torch.as_tensor(sex, dtype=torch.int64),
            "site": torch.as_tensor(np.searchsorted(self.sites, sites), dtype=torch.int64),
        }

    def balance(self, cohort: Cohort, largest: float = 5.0) -> NDArray[np.float64]:
        """Return weights under which every site has the cohort's distribution of age and sex.

        Stabilized inverse propensities, p(site) / p(site | age, age squared, sex), from a
        logistic regression (Robins 2000, doi:10.1097/00001648-200009000-00011).

        Parameters
        ----------
        cohort : Cohort
            Rows with age and sex.
        largest : float
            Weights are cut there, so that no single scan rules its site.

        Returns
        -------
        ndarray of float64, shape (n,)
            Mean 1.
        """
        from sklearn.linear_model import LogisticRegression

        labels = {k: v.numpy() for k, v in self.tensors(cohort, None, True, LOG).items()}
        age = labels["age"]
        columns = np.stack([age, age**2, labels["sex"]], axis=1)
        model = LogisticRegression(max_iter=1000).fit(columns, labels["site"])
        likely = model.predict_proba(columns)[np.arange(len(age)), labels["site"]]
        share = np.bincount(labels["site"], minlength=len(self.sites)) / len(age)
        weights = np.minimum(share[labels["site"]] / likely, largest)
        return weights / weights.mean()

    def _covariates(
        self, cohort: Cohort, log: logging.Logger
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        ages = cohort.column("age").astype(float)
        values = cohort.column("sex")
        missing_sex = np.array([value not in SEXES for value in values], dtype=bool)
        for name, missing, assumed in (
            ("age", np.isnan(ages), self.age_median),
            ("sex", missing_sex, self.sex_mode),
        ):
            if missing.any():
                log.info("%d scans without %s: %s is assumed", missing.sum(), name, assumed)
        ages = np.where(np.isnan(ages), self.age_median, ages)
        codes = [SEXES.get(value, SEXES[self.sex_mode]) for value in values]
        return ((ages - self.age_mean) / self.age_std).astype(np.float32), np.array(codes)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {
            "sites": list(self.sites),
            "age_mean": self.age_mean,
            "age_std": self.age_std,
            "age_median": self.age_median,
            "sex_mode": self.sex_mode,
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> LabelCoding:
        """Return the coding that `to_json` described."""
        return cls(**{**saved, "sites": tuple(saved["sites"])})
