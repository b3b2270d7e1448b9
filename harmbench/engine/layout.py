"""A run laid out before anything is made: data, split, reference site, cells, saved weights."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from harmbench import __version__, registry
from harmbench.config import (
    ANCHORS,
    PROTOCOL_VERSION,
    RunConfig,
    build_method,
    require_unchanged,
)
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import Dataset, Note, by_kind
from harmbench.contracts.metric import Metric
from harmbench.data.cache import load_cohort
from harmbench.data.splits import Split, make_split, thinned
from harmbench.engine.cells import Experiment
from harmbench.engine.collect import reads_probe
from harmbench.engine.graph import Graph
from harmbench.engine.keys import Cell, CellId, Keys, digest, make_cells
from harmbench.engine.saved_weights import Choice, choose, data_facts
from harmbench.errors import HarmbenchError
from harmbench.files.atomic import write_json
from harmbench.progress import Progress
from harmbench.protocol import PRODUCTS
from harmbench.results.folder import RunFolder

PACKAGES = ("numpy", "scipy", "pandas", "scikit-learn", "torch", "neuroHarmonize", "nilearn")
SPLIT_COLUMNS = ["participant_id", "site", "session_id", "slice"]


@dataclass(frozen=True)
class Layout:
    """A run laid out, nothing of it written yet.

    Attributes
    ----------
    experiment : Experiment
        What all cells share.
    cells : list of Cell
        What is to be run, in order.
    identity : dict
        What an earlier run in the same folder must agree with.
    split : Split
        The parts.
    choices : dict of cell id to Choice
        Which cells take up saved weights.
    """

    experiment: Experiment
    cells: list[Cell]
    identity: dict[str, Any]
    split: Split
    choices: dict[CellId, Choice]

    def graph(self) -> Graph:
        """Return the graph of all scores, those of the probes' gate last."""
        experiment = self.experiment
        asked = [(cell, name) for cell in self.cells for name in experiment.metrics]
        gates = [cell for cell in self.cells if cell.spec.name == "identity"]
        return Graph(
            experiment, [*asked, *((cell, name) for cell in gates for name in experiment.gate)]
        )

    @property
    def fitted(self) -> list[Cell]:
        """The cells that are fitted: several for each scored cell if the data are cross-fitted."""
        return [fit for cell in self.cells for fit in self.experiment.keys.fits(cell) or [cell]]

    def announcements(self) -> list[str]:
        """Return a sentence for every cell with saved weights or with a training before it."""
        lines = []
        for cell in self.fitted:
            choice = self.choices[cell.id]
            if choice.saved:
                lines.append(f"{cell.headline}: {choice.saved}")
            elif build_method(cell.spec).budget and not self.experiment.work(cell).is_fitted:
                lines.append(f"{cell.headline}: trained now ({choice.reason})")
        return lines


def prepare(folder: RunFolder, config: RunConfig, dataset: Dataset, progress: Progress) -> Layout:
    """Load the data and the split, settle the reference site, and lay out the cells."""
    identity = identity_of(config, dataset)
    if folder.has_cohort and folder.config_file.is_file():
        cohort = folder.cohort()
        split = Split(folder.split()["part"].to_numpy().astype(str))
    else:
        cohort = load_cohort(dataset, progress)
        require_unchanged(config, dataset.fingerprint)
        if config.subjects is not None:
            cohort = thinned(cohort, config.subjects, config.data_seed)
        split = make_split(cohort, config.data_seed, folds=config.folds)
    reference = reference_site(config, dataset, cohort)
    if not split.used[cohort.column("site").astype(str) == reference].any():
        raise HarmbenchError(f"--reference-site '{reference}': this site is {split.reason}")
    identity["reference_site"] = reference
    folder.begin(identity)
    config = _extend(folder, config)
    data_id = digest(dataset.fingerprint, config.data_seed, split.part.tolist())
    cells = make_cells(config, dataset.info.has_truth)
    products = {product.name: product for product in PRODUCTS}
    anchors = {cell.spec.name: cell for cell in reversed(cells) if cell.spec.name in ANCHORS}
    keys = Keys(config, data_id, reference, products, anchors, split)
    fitted = [fit for cell in cells for fit in keys.fits(cell) or [cell]]
    choices = choose(fitted, config, data_facts(config, dataset, split, reference))
    weights = {key: choice.saved for key, choice in choices.items() if choice.saved}
    keys.weights.update({key: saved.id for key, saved in weights.items()})
    metrics = {name: registry.load("metric", name) for name in config.metrics}
    gate = _gate(dataset, metrics)
    experiment = Experiment(folder, dataset, cohort, split, keys, metrics, progress, weights, gate)
    return Layout(experiment, cells, identity, split, choices)


def _gate(dataset: Dataset, metrics: dict[str, Metric]) -> dict[str, Metric]:
    """Return the metric that says whether probes learn, where it is not asked for but probes are.

    Otherwise the mark of a row would depend on which other metrics are in the run.
    """
    gate = dataset.probe_gate
    if gate is None or gate[0] in metrics:
        return {}
    probes = any(reads_probe(need) for metric in metrics.values() for need in metric.info.needs)
    return {gate[0]: registry.load("metric", gate[0])} if probes else {}


def identity_of(config: RunConfig, dataset: Dataset) -> dict[str, Any]:
    """Return what runs in one folder must have in common, as far as it is known before loading."""
    identity = {
        "data": config.data.name,
        "fingerprint": dataset.fingerprint,
        "data_seed": config.data_seed,
        "preset": config.preset,
        "protocol_version": PROTOCOL_VERSION,
        "folds": config.folds,
        "subjects": config.subjects,
    }
    if config.reference_site is not None:
        identity["reference_site"] = config.reference_site
    return identity


def reference_site(config: RunConfig, dataset: Dataset, cohort: Cohort) -> str:
    """Return the site asked for, else the data set's own, else the one with most subjects."""
    site = config.reference_site or dataset.reference_site
    if site is None:
        subjects = cohort.participants.drop_duplicates(["participant_id", "site"])
        counts = subjects["site"].value_counts()
        site = min(counts.index[counts == counts.max()])
    if site not in cohort.sites:
        raise HarmbenchError(
            f"--reference-site '{site}' is not a site of these data; "
            f"sites: {', '.join(cohort.sites)}"
        )
    return str(site)


def _extend(folder: RunFolder, config: RunConfig) -> RunConfig:
    """Return the union of what the folder's run asked for and what is asked for now."""
    if not folder.config_file.is_file():
        return config
    held = RunConfig.model_validate(folder.config["run"])
    mine = {spec.title for spec in config.methods}
    methods = tuple(spec for spec in held.methods if spec.title not in mine)
    return config.model_copy(
        update={
            "methods": methods + config.methods,
            "controls": tuple(dict.fromkeys(held.controls + config.controls)),
            "metrics": tuple(dict.fromkeys(held.metrics + config.metrics)),
            "seeds": max(held.seeds, config.seeds),
            "inception": config.inception or held.inception,
            "weights": held.weights | config.weights,
        }
    )


def store(layout: Layout) -> None:
    """Write the settings and the data.

    The settings first: they mark the folder as a run's, and a killed one goes on from there.
    """
    experiment = layout.experiment
    folder, cohort, dataset = experiment.folder, experiment.cohort, experiment.dataset
    notes = [*dataset.notes, *map(Note, filter(None, [layout.split.sentence]))]
    said = by_kind(notes)._asdict()
    features = list(dataset.feature_names)
    if folder.config_file.is_file():
        said = {kind: folder.config.get(kind, []) for kind in said}
        features = folder.config.get("features", [])
    content = {
        "identity": layout.identity,
        "run": experiment.keys.config.model_dump(mode="json"),
        "dataset": asdict(dataset.info),
        **said,
        "space": cohort.space,
        "features": features,
    }
    write_json(folder.config_file, content)
    if not folder.has_cohort:
        table = cohort.participants[SPLIT_COLUMNS].assign(part=layout.split.part)
        config = experiment.keys.config
        folder.save_cohort(cohort, table, lambda: require_unchanged(config, dataset.fingerprint))
        # As every later run and every other process sees it: a table read from a file may hold
        # other types of numbers than the data set's own.
        experiment.cohort = folder.cohort()
    write_json(folder.root / "environment.json", environment())


def environment() -> dict[str, Any]:
    """Return the versions that results may depend on; nothing names the machine or its user."""
    found = {"harmbench": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return {"versions": found, "system": platform.system(), "processor": platform.machine()}
