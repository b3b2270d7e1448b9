"""Age, sex and site as numbers for the label encoder, with a coding learned on the fit part."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harmbench.contracts.cohort import Cohort
from harmbench.errors import HarmbenchError

SEXES = {"F": 0, "M": 1}
UNKNOWN_SEX = 2
LARGEST_WEIGHT = 5.0
"""Upper limit of the weights before they are scaled, so that no single scan dominates its site."""
LOG = logging.getLogger("harmbench.ddae")


@dataclass(frozen=True)
class LabelCoding:
    """Coding of the labels as numbers.

    Attributes
    ----------
    sites : sequence of str
        Sites of the fit, sorted.
    age_mean, age_std : float
        Mean and standard deviation of age, in years.
    age_median : float
        Replaces a missing age, in years.
    sex_mode : str
        Replaces a missing sex.
    """

    sites: Sequence[str]
    age_mean: float
    age_std: float
    age_median: float
    sex_mode: str

    @classmethod
    def learn(cls, cohort: Cohort) -> LabelCoding:
        """Learn the coding from the fit part.

        Raises
        ------
        HarmbenchError
            If no scan has an age, or no scan has a sex.
        """
        ages = cohort.column("age").astype(float)
        sexes = [s for s in cohort.column("sex") if s in SEXES]
        if np.isnan(ages).all() or not sexes:
            raise HarmbenchError(
                "ddae learns from age and sex, and no scan of the fit has both; "
                "add the columns age and sex to the participants table"
            )
        return cls(
            sites=cohort.sites,
            age_mean=float(np.nanmean(ages)),
            age_std=float(np.nanstd(ages)) or 1.0,
            age_median=float(np.nanmedian(ages)),
            sex_mode=max(sorted(SEXES), key=sexes.count),
        )

    def tensors(
        self,
        cohort: Cohort,
        site: str | None = None,
        covariates: bool = True,
        log: logging.Logger = LOG,
    ) -> dict[str, Tensor]:
        """Return ``age``, ``sex`` and ``site`` of every row.

        Parameters
        ----------
        cohort : Cohort
            With the column ``site``, and with ``age`` and ``sex`` if they are used.
        site : str or None
            Site of all rows; None for each row's own site.
        covariates : bool
            Whether age and sex are used. If not, they are NaN and `UNKNOWN_SEX`.
        log : Logger
            Gets the number of missing values.
        """
        sites = cohort.column("site").astype(str) if site is None else np.repeat(site, len(cohort))
        unseen = sorted(set(sites) - set(self.sites))
        if unseen:
            raise HarmbenchError(
                f"ddae was fitted on the sites {', '.join(self.sites)} and does not know: "
                f"{', '.join(unseen)}; fit it on a cohort with them, or leave them out"
            )
        age = np.full(len(cohort), np.nan)
        sex = np.full(len(cohort), float(UNKNOWN_SEX))
        if covariates:
            age = cohort.column("age").astype(float)
            sex = np.array([SEXES.get(s, np.nan) for s in cohort.column("sex")], dtype=float)
            for name, values, shown, number in (
                ("age", age, self.age_median, self.age_median),
                ("sex", sex, self.sex_mode, SEXES[self.sex_mode]),
            ):
                missing = np.isnan(values)
                if missing.any():
                    log.info("%d scans without %s: %s is assumed", missing.sum(), name, shown)
                    values[missing] = number
            age = (age - self.age_mean) / self.age_std
        return {
            "age": torch.as_tensor(age, dtype=torch.float32),
            "sex": torch.as_tensor(sex, dtype=torch.int64),
            "site": torch.as_tensor(np.searchsorted(self.sites, sites), dtype=torch.int64),
        }

    def balance(self, cohort: Cohort) -> NDArray[np.float64]:
        """Return weights (n,) that give every site the cohort's distribution of age and sex.

        These are stabilized inverse propensities, p(site) / p(site | age, age squared, sex), from a
        logistic regression (Robins 2000, doi:10.1097/00001648-200009000-00011). Their mean is 1.
        """
        from sklearn.linear_model import LogisticRegression

        labels = {k: v.numpy() for k, v in self.tensors(cohort).items()}
        age = labels["age"]
        columns = np.stack([age, age**2, labels["sex"]], axis=1)
        model = LogisticRegression(max_iter=1000).fit(columns, labels["site"])
        likely = model.predict_proba(columns)[np.arange(len(age)), labels["site"]]
        share = np.bincount(labels["site"], minlength=len(self.sites)) / len(age)
        weights = np.minimum(share[labels["site"]] / likely, LARGEST_WEIGHT)
        return weights / weights.mean()
