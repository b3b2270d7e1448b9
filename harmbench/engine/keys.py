"""What a run consists of: its cells, and the key of every stage.

A key is a hash of all that a result depends on, so a new metric never harmonizes again, a new
method never recomputes the others, and whatever has changed is never reused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harmbench import code
from harmbench.config import (
    ANCHORS,
    PROTOCOL_VERSION,
    MethodSpec,
    RunConfig,
    build_method,
    method_spec,
)
from harmbench.contracts.method import MethodInfo
from harmbench.contracts.metric import MetricInfo
from harmbench.contracts.product import Product, ProductContext
from harmbench.data.splits import Split
from harmbench.errors import HarmbenchError, unknown
from harmbench.protocol.leakage import placebo
from harmbench.training.precision import precision_of

ALWAYS = (("harmbench.contracts.cohort", "Cohort"), ("harmbench.contracts.metric", "MetricInputs"))
"""Code that all methods, products and metrics are given, and need not name."""

HARMONIZING = 2
"""Raised when the runner does something else with the images that a method returns."""

LONGEST_NAME = 160
"""Bytes of a folder's name; file systems hold 255, and hashes are appended."""

CellId = tuple[str, int, str]
"""Label, method seed and fit of a cell."""


def digest(*parts: Any) -> str:
    """Return the hash of JSON-able parts."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def folder_name(title: str) -> str:
    """Return a label as the name of a folder, below any other and as long as systems allow."""
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in title)
    if not name.strip("."):
        return "_" * max(len(name), 1)
    if len(name.encode()) > LONGEST_NAME:
        return f"{name.encode()[:LONGEST_NAME].decode(errors='ignore')}-{digest(title)[:8]}"
    return name


@dataclass(frozen=True)
class Cell:
    """One method at one method seed: fitted, harmonized and scored.

    Attributes
    ----------
    spec : MethodSpec
        The method with its parameters.
    info : MethodInfo
        What the instance declares.
    seed : int
        Method seed.
    fold : str
        ``""`` for what is scored. If the data are cross-fitted, each fit of the method is a cell of
        its own, with the name of the fold that it harmonizes for scoring.
    shown : bool
        False for an anchor that is computed but not asked for.
    """

    spec: MethodSpec
    info: MethodInfo
    seed: int = 0
    fold: str = ""
    shown: bool = True

    @property
    def method_id(self) -> str:
        """Hash of the method, its parameters and its code."""
        return digest(self.spec.name, self.spec.params, code.code_id("method", self.spec.name))

    @property
    def id(self) -> CellId:
        """What tells it from the other cells of a run."""
        return self.spec.title, self.seed, self.fold

    @property
    def headline(self) -> str:
        """What it is called where people read."""
        return f"{self.spec.title}, seed {self.seed}{self.fold and f', fit {self.fold}'}"

    @property
    def folder(self) -> Path:
        """Its folder below ``cells/``."""
        base = Path(f"{folder_name(self.spec.title)}-{self.method_id[:8]}") / f"seed-{self.seed}"
        return base / f"fold-{self.fold}" if self.fold else base


def make_cells(config: RunConfig, has_truth: bool) -> list[Cell]:
    """Return the cells of a run: anchors first, then controls, then methods.

    A method whose result does not depend on its seed is run once; an anchor that needs the truth
    is left out where there is none.

    Raises
    ------
    HarmbenchError
        Where two rows would carry the same label, or a control was named that needs a truth.
    """
    titles: dict[str, MethodSpec] = {}
    cells = []
    names = list(dict.fromkeys((*ANCHORS, *config.controls)))
    anchors = [method_spec(MethodSpec(name=n), config.preset) for n in names]
    specs = [*anchors, *config.methods]
    for spec in specs:
        held = titles.setdefault(spec.title, spec)
        if held is not spec:
            if held == spec:
                continue
            raise HarmbenchError(f"two methods are called '{spec.title}'; give one a label")
        info = build_method(spec).info
        if info.sees_truth and not has_truth:
            continue
        shown = spec.name in config.controls or spec in config.methods
        seeds = range(config.seeds) if info.stochastic else range(1)
        cells += [Cell(spec, info, seed, shown=shown) for seed in seeds]
    return cells


@dataclass(frozen=True)
class Keys:
    """Computes the key of every stage of a run.

    Attributes
    ----------
    config : RunConfig
        Its settings.
    data_id : str
        Hash of the data set's fingerprint, its data seed and the split.
    reference_site : str
        Where everything is harmonized to.
    products : dict of str to Product
        All declared products.
    anchors : dict of str to Cell
        The anchor cells, by name (any seed: they have one).
    split : Split
        Says how often each method is fitted.
    weights : dict of cell id to str
        Hash of the saved weights that a cell takes up; the others are trained.
    """

    config: RunConfig
    data_id: str
    reference_site: str
    products: dict[str, Product]
    anchors: dict[str, Cell]
    split: Split
    weights: dict[CellId, str] = field(default_factory=dict)
    _made: dict[tuple[CellId, str], str] = field(default_factory=dict, init=False, repr=False)

    def fits(self, cell: Cell) -> list[Cell]:
        """Return the fits of a cross-fitted cell; none for a cell that is fitted itself."""
        if cell.fold or not self.split.cross_fitting:
            return []
        return [replace(cell, fold=name) for name in self.split.folds]

    def fit(self, cell: Cell) -> str:
        """Key of a fitted method."""
        return digest(
            "fit",
            self.data_id,
            cell.fold,
            cell.method_id,
            code.symbol_id("harmbench.engine.fitting", "fit"),
            self.reference_site,
            cell.seed,
            self.config.threads,
            self.weights.get(cell.id, "trained"),
            self.config.device.partition(":")[0],
            self._precision(cell),
        )

    def _precision(self, cell: Cell) -> str:
        """Return the precision that a cell is trained in; ``""`` where it is not."""
        if cell.id in self.weights:
            return ""
        return precision_of(build_method(cell.spec).params(), self.config.device)

    def product(self, cell: Cell, name: str) -> str:
        """Key of a product; ``"oracle:probe.site"`` names another cell's."""
        if ":" in name:
            anchor, _, name = name.partition(":")
            return self.product(self.anchors[anchor], name)
        if (cell.id, name) not in self._made:
            self._made[cell.id, name] = self._product(cell, name)
        return self._made[cell.id, name]

    def _product(self, cell: Cell, name: str) -> str:
        if name not in IMAGE_PRODUCTS and name not in self.products:
            raise unknown("product", name, [*IMAGE_PRODUCTS, *self.products])
        kind = name.partition(".")[0]
        if kind == "raw":
            return digest(name, self.data_id, cell.fold)
        if kind == "truth":
            return digest(name, self.data_id, cell.fold, self.reference_site)
        if kind == "travelling":
            within = self.config.repeat_within
            return digest(name, self.data_id, cell.fold, self.reference_site, within)
        if name in IMAGE_PRODUCTS and (fits := self.fits(cell)):
            return digest(name, [self.product(one, name) for one in fits])
        if kind in ("harmonized", "own_site"):
            return digest(name, HARMONIZING, self.fit(cell))
        if name in placebo.NAMES:
            draws = code.symbol_id(placebo.__name__, "")
            return digest(name, HARMONIZING, draws, self.fit(cell))
        product = self.products[name]
        context = self.context(cell)
        reads = {field: getattr(context, field) for field in product.reads}
        if "device" in reads:  # any one of a kind, as for fits
            reads["device"] = context.device.partition(":")[0]
        inputs = [self.product(cell, n) for n in (*product.needs, *product.wants) if self.has(n)]
        behind = [code.function_id(product.make), *_always()]
        return digest(name, product.version, behind, inputs, reads)

    def score(self, cell: Cell, registry_name: str, metric: MetricInfo) -> str:
        """Key of a score."""
        inputs = [self.product(cell, n) for n in (*metric.needs, *metric.wants) if self.has(n)]
        behind = [code.code_id("metric", registry_name), *_always()]
        return digest("score", metric.name, metric.version, behind, inputs, PROTOCOL_VERSION)

    def has(self, name: str) -> bool:
        """Whether the anchor that a product belongs to exists in this run."""
        anchor, colon, _ = name.partition(":")
        return not colon or anchor in self.anchors

    def context(self, cell: Cell) -> ProductContext:
        """Return the settings that products are made with in this cell."""
        return ProductContext(
            seeds=tuple(3 * cell.seed + i for i in range(3)),
            threads=self.config.threads,
            device=self.config.device,
            probe=self.config.probe,
            inception=self.config.inception,
        )


def _always() -> list[str]:
    return [code.symbol_id(*symbol) for symbol in ALWAYS]


def unavailable(
    name: str, cell: Cell, *, has_truth: bool, is_table: bool, keys: Keys
) -> str | None:
    """Return why a product can be known in advance not to exist here, or None.

    Parameters
    ----------
    name : str
        A product's name, possibly of an anchor.
    cell : Cell
        Who asks.
    has_truth, is_table : bool
        Whether the data set knows the truth, and is a table of features.
    keys : Keys
        Holds the anchors and the declared products.
    """
    if ":" in name:
        anchor, _, name = name.partition(":")
        if anchor not in keys.anchors:
            return f"there is no {anchor} on these data"
        cell = keys.anchors[anchor]
    if name.startswith("truth.") and not has_truth:
        return "these data have no ground truth"
    if cell.info.images_only and (more := _not_returned(name, cell)):
        return f"these images were made elsewhere; needs {more}"
    if name == "own_site.test" and cell.info.targets != "any":
        return f"{cell.info.label} cannot render an image back to its own site"
    if name == "harmonized.fit" and keys.split.cross_fitting:
        return "these data are cross-fitted: no image is harmonized by a fit that has seen it"
    if name not in keys.products:
        return None
    product = keys.products[name]
    if product.images and is_table:
        return "needs images; these data are a table of features"
    reasons = (
        unavailable(part, cell, has_truth=has_truth, is_table=is_table, keys=keys)
        for part in product.needs
    )
    return next((reason for reason in reasons if reason), None)


def _not_returned(name: str, cell: Cell) -> str | None:
    """Return what a product asks of a method that images made beforehand cannot give, or None."""
    if name == "own_site.test":
        return "them rendered back to their own sites"
    if name in placebo.NAMES:
        return f"them harmonized again under another {' and '.join(placebo.columns(name))}"
    return None


IMAGE_PRODUCTS: dict[str, str] = {
    "raw.fit": "unharmonized images that the methods are fitted on",
    "raw.probe": "unharmonized images that the probes are trained on",
    "raw.test": "unharmonized images that are scored",
    "raw.real": "unharmonized images of other subjects, which distances compare with",
    "harmonized.fit": "the fit part, harmonized to the reference site",
    "harmonized.probe": "the probe part, harmonized to the reference site",
    "harmonized.test": "the test part, harmonized to the reference site",
    "own_site.test": "the test part, rendered back to each scan's own site",
    "truth.test": "simulated data: the test part as scanned at the reference site, with noise",
    "truth.test.clean": "simulated data: the same without noise",
    "travelling.test": "scans at the reference site of test subjects who were scanned at several",
    **{
        name: f"the test part, harmonized under another {' and '.join(placebo.columns(name))}"
        for name in (*placebo.AGES, placebo.BOTH)
    },
}
"""Products that the runner makes itself, with what they are; all others are declared by the
protocol's modules."""
