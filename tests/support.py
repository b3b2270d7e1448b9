"""Helpers that several test files share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harmbench.config import build_dataset, resolve
from harmbench.contracts.cohort import Cohort
from harmbench.data.sheet import DataSheet, make_sheet
from harmbench.files.atomic import write_arrays, write_json
from harmbench.results.folder import RunFolder, Stage

_METRICS = [
    # name, label, unit, axis, level, direction, goal
    ("site_bacc", "Site accuracy", "", "site removal", "five", "target", None),
    ("age_mae", "Age MAE", "years", "biology kept", "five", "lower", 0.0),
    ("distance_pcc", "Distance PCC", "", "individuals", "five", "higher", 1.0),
    ("fid_pooled", "FID pooled", "", "quality", "five", "lower", 0.0),
    ("truth_mae", "Truth MAE", "", "truth", "core", "lower", 0.0),
]

CARD = {"method": "m", "params": {"a": 1}, "data": {"name": "d", "params": {}}, "fingerprint": "f",
        "data_seed": 0, "split": "s", "reference_site": "a", "seed": 0, "label": "m",
        "command": "c", "data_label": "d", "data_license": "", "n_fit": 3, "images": 10,
        "seconds": 1.5,
        "device": "cpu", "threads": 1, "versions": {"numpy": "1"}, "history": {"images": [1, 2]},
        "files": {"weights.safetensors": "0"}}  # fmt: skip
"""A card of saved weights."""


def make_run_folder(
    root: Path,
    *,
    methods: Sequence[str] = ("combat", "ddae"),
    controls: Sequence[str] = ("identity", "oracle"),
    sites: int = 3,
    n_per_site: int = 12,
    shape: tuple[int, ...] = (7, 9),
    seeds: int = 1,
    truth: bool = True,
    probes: bool = True,
    images: bool = True,
    failing: Sequence[str] = (),
) -> Path:
    """Write a small, complete run folder with made-up numbers, without torch or any plug-in.

    Parameters
    ----------
    root : Path
        Where; made if need be.
    methods, controls : sequence of str
        Labels of the rows.
    sites, n_per_site, shape, seeds : int, int, tuple, int
        Sizes; a third of each site's subjects is in each part.
    truth, probes, images : bool
        Whether the run had a truth, trained probes, and kept images.
    failing : sequence of str
        Labels of rows whose every metric failed.
    """
    rng = np.random.default_rng(7)
    folder = RunFolder(root)
    cohort, parts = _cohort(rng, sites, n_per_site, shape)
    columns = ["participant_id", "site", "session_id", "slice"]
    folder.save_cohort(cohort, cohort.participants[columns].assign(part=parts))
    test = cohort.subset(parts == "test")
    write_json(folder.config_file, _config(methods, controls, seeds, truth))
    write_json(
        root / "environment.json",
        {"versions": {"python": "3.11.0"}, "system": "Linux", "processor": "x86_64"},
    )
    cells, rows = [], []
    for label in [*controls, *methods]:
        for seed in range(1 if label in controls else seeds):
            place = root / "cells" / f"{label.replace('/', '_')}-0" / f"seed-{seed}"
            entry: dict[str, Any] = {"label": label, "seed": seed, "fold": "", "shown": True}
            entry["images"] = _images(root, place, test, rng, truth) if images else {}
            entry["scores"] = {}
            for name, *_ in _METRICS:
                status, reason = _status(label, name, failing, truth, probes)
                if status == "ok":
                    stage, new = _score(place, name, label, seed, test, rng)
                    entry["scores"][name] = str(stage.stem.relative_to(root))
                    rows += new
                else:
                    rows.append(_row(label, seed, name, "all", status, reason))
            cells.append(entry)
    write_json(root / "cells.json", cells)
    write_json(root / "metrics.json", {m[0]: _metric(*m) for m in _METRICS})
    write_json(root / "methods.json", {m: _method(m, m in controls) for m in [*controls, *methods]})
    timing = [(label, 0, "", s, 1.5) for label in methods for s in ("fit", "harmonized.test")]
    folder.write_scores(
        pd.DataFrame(rows),
        pd.DataFrame(timing, columns=["label", "seed", "fold", "stage", "seconds"]),
    )
    return root


def _cohort(
    rng: np.random.Generator, sites: int, n_per_site: int, shape: tuple[int, ...]
) -> tuple[Cohort, np.ndarray]:
    n = sites * n_per_site
    site = np.repeat([f"site-{chr(ord('a') + i)}" for i in range(sites)], n_per_site)
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{i:03d}" for i in range(n)],
            "session_id": "",
            "slice": 0,
            "site": site,
            "age": rng.uniform(20, 80, n).round(1) + 5 * np.repeat(np.arange(sites), n_per_site),
            "sex": rng.choice(["F", "M"], n),
        }
    )
    axes = np.meshgrid(*[np.linspace(-1, 1, s) for s in shape], indexing="ij")
    head = sum(axis**2 for axis in axes) < 0.9
    gain = 0.6 + 0.1 * np.repeat(np.arange(sites), n_per_site)
    noise = rng.normal(0, 0.03, (n, *shape))
    images = np.where(head, gain.reshape(-1, *[1] * len(shape)) * (1 - axes[0] / 3) + noise, 0)
    parts = np.array([("fit", "probe", "test")[i % 3] for i in range(n)])
    return Cohort(images.astype(np.float32), table, np.broadcast_to(head, images.shape)), parts


def _config(
    methods: Sequence[str], controls: Sequence[str], seeds: int, truth: bool
) -> dict[str, Any]:
    specs = [{"name": m, "label": "", "params": {}} for m in methods]
    return {
        "identity": {
            "data": "made-up",
            "fingerprint": "made-up-1",
            "data_seed": 0,
            "preset": "smoke",
            "protocol_version": 1,
            "reference_site": "site-a",
        },
        "run": {
            "data": {"name": "made-up", "params": {}},
            "preset": "smoke",
            "methods": specs,
            "controls": list(controls),
            "protocol": "core",
            "metrics": [m[0] for m in _METRICS],
            "seeds": seeds,
            "data_seed": 0,
            "reference_site": None,
            "threads": 1,
            "device": "cpu",
            "probe": {},
            "inception": "never",
        },
        "dataset": {
            "name": "made-up",
            "label": "Made-up heads",
            "summary": "Ellipses with a gain for each site.",
            "license": "CC0",
            "doi": "10.1000/made-up",
            "has_truth": truth,
        },
        "notes": ["These numbers are made up."],
        "read": ["1 table of <made-up> numbers"],
        "set_aside": ["column 'weight': not wanted"],
        "space": "slice",
    }


def _images(
    root: Path, place: Path, test: Cohort, rng: np.random.Generator, truth: bool
) -> dict[str, str]:
    found = {}
    for name in ["harmonized.test"] + ["truth.test"] * truth:
        stage = Stage(place / "products", name, "0123456789abcdef")
        stage.stem.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.normal(0, 0.02, test.images.shape).astype(np.float32)
        np.save(stage.file(".npy"), np.where(test.mask, 0.8 * test.images + noise, 0))
        stage.complete(stage=name, seconds=1.0)
        found[name] = str(stage.stem.relative_to(root))
    return found


def _status(
    label: str, metric: str, failing: Sequence[str], truth: bool, probes: bool
) -> tuple[str, str]:
    if label in failing:
        return "failed", "fit: ValueError: it <b>broke</b> | badly"
    if metric == "fid_pooled":
        return "skipped", "the Inception weights are not there"
    if metric == "truth_mae" and not truth:
        return "skipped", "these data have no ground truth"
    if metric in ("site_bacc", "age_mae") and not probes:
        return "skipped", "needs 100 test scans; there are 12"
    return "ok", ""


def _score(
    place: Path, name: str, label: str, seed: int, test: Cohort, rng: np.random.Generator
) -> tuple[Stage, list[dict[str, Any]]]:
    """Write one score's files as the runner does; return its stage and its rows."""
    stage = Stage(place / "scores", name, "0123456789abcdef")
    table = test.participants
    sites = test.sites
    value = float(rng.uniform(0.2, 0.9)) * (10 if name == "age_mae" else 1)
    arrays: dict[str, Any] = {}
    if name == "site_bacc":
        arrays = {"confusion": rng.uniform(0, 9, (len(sites),) * 2), "sites": np.array(sites)}
    if name == "distance_pcc":
        for site in sites[1:]:
            k = int((table["site"] == site).sum())
            before = rng.uniform(1, 3, k * (k - 1) // 2)
            arrays |= {f"before.{site}": before, f"after.{site}": 0.8 * before}
    if arrays:
        write_arrays(stage.file(".npz"), arrays)
    if name == "age_mae":
        predicted = table["age"] + rng.normal(0, 8, len(table))
        per_scan = table[["participant_id", "site", "age"]].assign(predicted=predicted)
        stage.stem.parent.mkdir(parents=True, exist_ok=True)
        per_scan.to_csv(stage.file(".csv"), index=False)
    floors = {"overall median": 14.0, "this row": value} if name == "age_mae" else {}
    target = 0.3 if name == "site_bacc" else float("nan")
    overall = {"value": value, "low": value * 0.9, "high": value * 1.1, "n": len(test)}
    note = "underfit" if (name, label) == ("site_bacc", "ddae") else ""
    stage.complete(
        stage=name, seconds=0.1, status="ok", reason="", note=note, overall=overall,
        groups={}, target=target, floors=floors,
    )  # fmt: skip
    rows = [_row(label, seed, name, "all", "ok", note, value, target)]
    if name == "distance_pcc":
        rows += [_row(label, seed, name, s, "ok", "", value / 3, np.nan) for s in sites[1:]]
    return stage, rows


def _row(
    label: str,
    seed: int,
    metric: str,
    group: str,
    status: str,
    reason: str,
    value: float = float("nan"),
    target: float = float("nan"),
) -> dict[str, Any]:
    return {
        "method": label, "label": label, "seed": seed, "metric": metric, "metric_version": 1,
        "group": group, "value": value, "ci_low": value * 0.9, "ci_high": value * 1.1,
        "target": target, "n": 12, "status": status, "reason": reason,
    }  # fmt: skip


def _metric(
    name: str, label: str, unit: str, axis: str, level: str, direction: str, goal: float | None
) -> dict[str, Any]:
    return {
        "name": name, "label": label, "summary": f"What {label} measures.", "axis": axis,
        "level": level, "direction": direction, "needs": [], "wants": [], "unit": unit,
        "goal": goal, "range": [0.0, None], "version": 1, "min_n": 20, "anchors": [],
        "expected_order": [], "extractor": "", "doi": "arXiv:1706.08500",
    }  # fmt: skip


def _method(label: str, control: bool) -> dict[str, Any]:
    sees = ["site", "truth"] if label == "oracle" else ["age", "site"]
    return {
        "name": label, "label": label, "summary": f"What {label} does.", "doi": "",
        "fit_sees": sees, "harmonize_sees": sees, "targets": "fit", "spaces": ["slice"],
        "stochastic": not control, "control": control, "sees_truth": label == "oracle",
        "params": {}, "shown": True,
    }  # fmt: skip


def made_up_scan(seed: int, shape: tuple[int, ...] = (40, 44, 1)) -> np.ndarray:
    """Return a stripped 'brain' of random intensities on a background of 0."""
    rng = np.random.default_rng(seed)
    data = np.zeros(shape, np.float32)
    data[8:32, 6:38] = rng.uniform(50, 200, data[8:32, 6:38].shape)
    return data


def save_bids_scan(
    root: Path,
    subject: str,
    session: str = "",
    data: np.ndarray | None = None,
    affine: np.ndarray | None = None,
    ending: str = ".nii.gz",
    entity: str = "",
) -> Path:
    """Write one T1w image of a BIDS folder, of voxels of 4 mm where no affine says otherwise."""
    import nibabel as nib

    stem = "_".join(filter(None, (subject, session)))
    name = "_".join(filter(None, (stem, entity, "T1w")))
    file = root / subject / session / "anat" / (name + ending)
    file.parent.mkdir(parents=True, exist_ok=True)
    data = made_up_scan(sum(stem.encode())) if data is None else data
    affine = np.diag([4.0, 4.0, 4.0, 1.0]) if affine is None else affine
    nib.save(nib.Nifti1Image(data, affine), file)
    return file


def linear_age_probe(training: Cohort, *others: Cohort) -> list[np.ndarray]:
    """Return the ages that ridge regression on 40 components reads from others' images, (1, n)."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    probe = make_pipeline(PCA(40, svd_solver="full"), Ridge(1e-3))
    flat = [cohort.images.reshape(len(cohort), -1).astype(float) for cohort in (training, *others)]
    probe.fit(flat[0], training.column("age").astype(float))
    return [probe.predict(images)[None] for images in flat[1:]]


def probe_product(predicted: np.ndarray, classes: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Return a probe's product as metrics read it, of a probe that has learned."""
    loss = np.linspace(2, 1, 40) * np.ones((len(predicted), 1))
    names = np.array(list(classes), dtype="<U8")
    return {"predicted": np.asarray(predicted), "classes": names, "training_loss": loss}


def make_data_sheet(kind: str, place: Path, table: pd.DataFrame, **options: str) -> DataSheet:
    """Return the data sheet of scans with these participants, saved as data of a kind.

    Parameters
    ----------
    kind : {"bids", "csv", "npz"}
    place : Path
        An empty folder.
    table : DataFrame
        With ``participant_id``.
    **options : str
        Arguments of the data set.
    """
    rng = np.random.default_rng(0)
    n = len(table)
    data = place / (kind if kind == "bids" else f"data.{kind}")
    if kind == "bids":
        for k, name in enumerate(table["participant_id"]):
            save_bids_scan(data, name, data=made_up_scan(k, (40, 44, 1)))
        table.to_csv(data / "participants.tsv", sep="\t", index=False)
    elif kind == "csv":
        table.assign(volume=rng.normal(size=n)).to_csv(data, index=False)
    else:
        arrays = {str(name): np.array(values.tolist()) for name, values in table.items()}
        np.savez(data, images=rng.uniform(0.2, 0.9, (n, 12, 12)), **arrays)
    return make_sheet(build_dataset(resolve(data=str(data), preset="smoke", data_options=options)))
