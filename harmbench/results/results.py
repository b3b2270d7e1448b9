"""A finished run, for a notebook: scores, tables, ranking, figures and the report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd

from harmbench.errors import HarmbenchError, unknown
from harmbench.results.folder import RunFolder, failures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Results:
    """The results of a run, read from its folder.

    Parameters
    ----------
    folder : str or Path
        The run folder.
    kept : TemporaryDirectory or None
        A temporary folder that lives as long as these results.

    Raises
    ------
    HarmbenchError
        If the folder holds no run, or one without scores.
    """

    def __init__(self, folder: str | Path, kept: TemporaryDirectory[str] | None = None) -> None:
        self.folder = Path(folder)
        self._kept = kept
        self._run = RunFolder(self.folder)
        self._run.config  # noqa: B018  # raises where there is no run
        self.scores  # noqa: B018

    @cached_property
    def scores(self) -> pd.DataFrame:
        """All scores, one row for each method, seed, metric and group, as in ``scores.csv``."""
        return self._run.scores()

    @property
    def failed(self) -> list[str]:
        """One sentence for each method or metric that failed."""
        return failures(self.scores)

    def table(self, metrics: Sequence[str] = (), intervals: bool = False) -> pd.DataFrame:
        """Return methods by metrics.

        Parameters
        ----------
        metrics : sequence of str
            Names of metrics; empty for all of the run.
        intervals : bool
            Whether the bounds of the 95 % intervals stand beside each value, in columns
            ``<metric>_low`` and ``<metric>_high``.

        Returns
        -------
        DataFrame
            Index label and seed, in the order of the run; NaN where there is no value.
        """
        known = list(self._run.table("metrics"))
        for name in metrics:
            if name not in known:
                raise unknown("metric of this run", name, known)
        overall = self.scores[self.scores["group"] == "all"].set_index(["label", "seed"])
        order = list(dict.fromkeys((c["label"], c["seed"]) for c in self._run.table("cells")))
        index = pd.MultiIndex.from_tuples(
            [row for row in order if row in set(overall.index)], names=["label", "seed"]
        )
        columns = {}
        for name in metrics or known:
            rows = overall[overall["metric"] == name]
            columns[name] = rows["value"]
            if intervals:
                columns |= {f"{name}_low": rows["ci_low"], f"{name}_high": rows["ci_high"]}
        return pd.DataFrame(columns).reindex(index)

    def ranking(self) -> pd.DataFrame:
        """Return site removal, biology kept, their harmonic mean and the rank of every method.

        Returns
        -------
        DataFrame
            Texts for readers, with intervals; empty if no metric of the run is scored.
        """
        from reports.score_tables import score_frame
        from reports.scores import score_run

        return score_frame(score_run(self._report))

    def figures(self) -> list[str]:
        """Return the names of the figures that can be drawn from this run."""
        from reports.figures import drawings

        return [drawn.name for drawn in drawings(self._report, [])]

    def figure(self, name: str) -> Figure:
        """Return one figure.

        Parameters
        ----------
        name : str
            One of `figures`, such as ``"trade-off"``.
        """
        from reports.figures import drawings

        known = []
        for drawn in drawings(self._report, []):
            if drawn.name == name:
                drawn.figure.suptitle(drawn.title)
                return drawn.figure
            known.append(drawn.name)
        raise unknown("figure of this run", name, known)

    def report(self, page: str | Path | None = None) -> Path:
        """Write the report with its tables and figures.

        Parameters
        ----------
        page : str or Path, optional
            An ``.html`` file to copy the page to, which needs no other file; by default the report
            lies in the run folder only.

        Returns
        -------
        Path
            Of the page.
        """
        import shutil

        import reports

        if page is not None and Path(page).suffix != ".html":
            raise HarmbenchError(f"{page}: give the name of an .html file")
        made = reports.build(self.folder)
        if page is None:
            return made
        Path(page).parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(made, page))

    @cached_property
    def _report(self) -> Any:
        from reports.results import read_results

        return read_results(self.folder)

    def __repr__(self) -> str:
        labels = ", ".join(dict.fromkeys(self.scores["label"]))
        return f"Results of {labels} in {self.folder}"

    def _repr_html_(self) -> str:
        ranking, table = self.ranking(), self.table()
        parts = [] if ranking.empty else [ranking.to_html(index=False, border=0)]
        return "".join([*parts, table.round(3).to_html(border=0, na_rep="")])
