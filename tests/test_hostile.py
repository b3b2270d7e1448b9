"""What comes from elsewhere runs no code and leaves no folder."""

from __future__ import annotations

import ast
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from support import CARD, made_up_scan, make_run_folder, save_bids_scan

from harmbench.config import resolve
from harmbench.contracts.dataset import Dataset
from harmbench.data.arrays import ArrayDataset
from harmbench.data.bids import BIDSDataset
from harmbench.data.tables import TableDataset
from harmbench.engine.keys import folder_name
from harmbench.errors import HarmbenchError
from harmbench.exchange.returned import Files
from harmbench.files.atomic import read_arrays
from harmbench.files.models import load_model
from harmbench.results.folder import RunFolder
from harmbench.training.cards import read_card
from harmbench.training.checkpoint import Checkpoint
from reports.results import read_results

ROOT = Path(__file__).parents[1]

# ---- nothing is unpickled

MODULES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
CALLS = {"read_pickle", "to_pickle", "load_state_dict_from_url", "fromfile"}
GUARDS = {
    ("np", "load"): ("allow_pickle", False),
    ("numpy", "load"): ("allow_pickle", False),
    ("torch", "load"): ("weights_only", True),
}


def unsafe(source: str) -> list[str]:
    """Return what in a module could unpickle, line by line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"{node.lineno}: import {n}" for n in names if n.split(".")[0] in MODULES]
        if isinstance(node, ast.Attribute) and node.attr in CALLS:
            found.append(f"{node.lineno}: {node.attr}")
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        base = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
        name, value = GUARDS.get((base, node.func.attr), ("", None))
        said = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        if name and said.get(name) is not value:
            found.append(f"{node.lineno}: {base}.{node.func.attr} without {name}={value}")
    return found


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from joblib import load", "import yaml", "np.load(p)", "torch.load(p)",
     "np.load(p, allow_pickle=True)", "torch.load(p, weights_only=flag)", "pd.read_pickle(p)"],
)  # fmt: skip
def test_the_audit_sees(line: str) -> None:
    assert unsafe(line)


def test_no_module_unpickles() -> None:
    found = []
    for package in ("harmbench", "baselines", "ddae", "reports", "benchmarks"):
        files = sorted((ROOT / package).rglob("*.py"))
        assert files, package
        found += [
            f"{file.relative_to(ROOT)}:{one}" for file in files for one in unsafe(file.read_text())
        ]
    # For the name of the error that `torch.load` raises where it refuses to.
    assert [one.partition(":")[0] for one in found] == ["harmbench/protocol/features/inception.py"]
    assert found[0].endswith("import pickle")


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.place),)


def a_model(folder: Path) -> None:
    load_model(folder)


def a_checkpoint(folder: Path) -> None:
    Checkpoint(folder, "x", 1.0).load()


def an_archive(folder: Path) -> None:
    ArrayDataset(folder / "data.npz").load()


@pytest.mark.parametrize(
    ("file", "load"),
    [("weights.safetensors", a_model), ("checkpoint.safetensors", a_checkpoint),
     ("data.npz", an_archive)],
)  # fmt: skip
@pytest.mark.parametrize("writer", ["pickle", "torch", "numpy"])
def test_no_loader_runs_a_payload(
    tmp_path: Path, file: str, load: Callable[[Path], None], writer: str
) -> None:
    trap = Trap(tmp_path / "sprung")
    (tmp_path / "model.json").write_text("{}")
    with (tmp_path / file).open("wb") as stream:
        if writer == "pickle":
            pickle.dump(trap, stream)
        elif writer == "torch":
            torch.save({"a": trap}, stream)
        else:
            np.savez(stream, images=np.array([trap], dtype=object))
    with pytest.raises(HarmbenchError):
        load(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_arrays_of_a_run_are_no_objects(tmp_path: Path) -> None:
    for name in ("images.npy", "mask.npy"):
        folder = make_run_folder(tmp_path / name)
        trap = np.array([Trap(tmp_path / "sprung")] * 36, dtype=object)
        np.save(folder / "data" / name, trap, allow_pickle=True)
        with pytest.raises(ValueError, match=r"Object arrays|Python objects"):
            RunFolder(folder).cohort()
    np.savez(tmp_path / "a.npz", a=trap)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_arrays(tmp_path / "a.npz")
    assert not (tmp_path / "sprung").exists()


# ---- no path leads out


@pytest.fixture
def study(tmp_path: Path) -> Path:
    root = tmp_path / "study"
    rows = ["participant_id\tsite\tage\tsex"]
    for i in range(4):
        save_bids_scan(root, f"sub-{i}", ending=".nii")
        rows.append(f"sub-{i}\t{'ab'[i % 2]}\t30\tF")
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    (root / "dataset_description.json").write_text('{"Name": "Study"}')
    return root


@pytest.mark.parametrize(
    "file",
    ["sub-1/anat/sub-1_T1w.nii", "sub-1/anat", "sub-1", "participants.tsv", "participants.json",
     "sub-1/sub-1_scans.tsv", "dataset_description.json",
     "derivatives/masks/sub-1/anat/sub-1_desc-brain_mask.nii"],
)  # fmt: skip
def test_links_out_of_a_data_set_are_refused(study: Path, file: str) -> None:
    place, outside = study / file, study.parent / "outside"
    if place.exists():
        place.rename(outside)
    elif file.endswith(".nii"):
        nib.save(nib.Nifti1Image(made_up_scan(0), np.diag([4.0, 4, 4, 1])), f"{outside}.nii")
        Path(f"{outside}.nii").rename(outside)
    else:
        outside.write_text(
            "{}" if file.endswith(".json") else "filename\tage\nanat/sub-1_T1w.nii\t30\n"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(outside)
    with pytest.raises(HarmbenchError, match=r"leads out of study.*follow-links") as refused:
        BIDSDataset(study, 32).load()
    assert str(outside) not in str(refused.value)
    if place.suffix != ".nii" or file.startswith("sub-1/"):
        assert len(BIDSDataset(study, 32, follow_links=True).load()) == 4


def test_links_within_a_data_set_are_followed(study: Path) -> None:
    file = study / "sub-1/anat/sub-1_T1w.nii"
    annex = study / ".git/annex/objects/ab"
    annex.parent.mkdir(parents=True)
    file.rename(annex)
    file.symlink_to("../../.git/annex/objects/ab")
    linked = study.parent / "by another name"
    linked.symlink_to(study)
    assert len(BIDSDataset(study, 32).load()) == len(BIDSDataset(linked, 32).load()) == 4
    derived = study / "derivatives/pipeline"
    (derived / "sub-1/anat").mkdir(parents=True)
    (derived / "sub-1/anat/sub-1_T1w.nii").symlink_to(study / "sub-2/anat/sub-2_T1w.nii")
    with pytest.raises(HarmbenchError, match="one site"):  # and no word of links
        BIDSDataset(derived, 32).load()


@pytest.mark.parametrize("target", ["/dev/zero", "sub-1_T1w.nii"])
def test_links_to_devices_and_in_circles_end(study: Path, target: str) -> None:
    file = study / "sub-1/anat/sub-1_T1w.nii"
    file.unlink()
    file.symlink_to(target)
    dataset = BIDSDataset(study, 32, follow_links=True)
    assert len(dataset.fingerprint) == 64
    with pytest.raises(HarmbenchError, match=r"not a file|link to nothing"):
        dataset.load()


def test_links_out_of_a_returned_folder_are_refused(tmp_path: Path) -> None:
    file = save_bids_scan(tmp_path / "mine", "sub-1", entity="desc-harmonized")
    assert Files(tmp_path / "mine").by_place
    file.rename(tmp_path / "elsewhere.nii.gz")
    file.symlink_to(tmp_path / "elsewhere.nii.gz")
    with pytest.raises(HarmbenchError, match="leads out of mine"):
        Files(tmp_path / "mine")


def test_tables_name_no_files(study: Path) -> None:
    outside = study.parent / "sub-1_T1w.nii"
    outside.write_bytes((study / "sub-1/anat/sub-1_T1w.nii").read_bytes())
    text = f"filename\tage\n{outside}\t50\n../../sub-1_T1w.nii.gz\t51\n"
    (study / "sub-1/sub-1_scans.tsv").write_text(text)
    with (study / "participants.tsv").open("a") as table:
        table.write("../sub-9\ta\t30\tF\n/etc/passwd\tb\t30\tF\n")
    used = BIDSDataset(study, 32)._files_used()
    assert all(file.resolve().is_relative_to(study) for file in used)


@pytest.mark.parametrize(
    "label", ["..", ".", "...", "../../x", "/etc/x", "a\\b", "x" * 5000, "中" * 99]
)
def test_labels_become_folders_below_the_run(tmp_path: Path, label: str) -> None:
    place = tmp_path / "run" / folder_name(label)
    place.mkdir(parents=True)
    assert place.resolve().parent == tmp_path / "run"
    assert folder_name("x" * 400) != folder_name("x" * 401)


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "a/../../secret"])
def test_cards_and_runs_name_no_files_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "card.json").write_text(json.dumps(CARD | {"files": {name: "0"}}))
    with pytest.raises(HarmbenchError, match="is not in its folder"):
        read_card(tmp_path)
    folder = make_run_folder(tmp_path / "run")
    cells = json.loads((folder / "cells.json").read_text())
    cells[0]["scores"]["age_mae"] = name
    (folder / "cells.json").write_text(json.dumps(cells))
    with pytest.raises(HarmbenchError, match="outside of the run"):
        read_results(folder)


def test_a_card_names_its_method(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps(CARD | {"method": ""}))
    with pytest.raises(HarmbenchError, match=r"cannot be read as a card \(method\)"):
        read_card(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"inception_weights": Path("x" * 5000)},
        {"methods": ["x" * 5000 + ".py:Method"]},
        {"weights": ["combat=" + "x" * 5000]},
        {"data": "x" * 5000},
    ],
)
def test_a_name_that_no_system_holds_is_of_no_file(settings: dict[str, Any]) -> None:
    with pytest.raises(HarmbenchError, match=r"there is no f|unknown data set"):
        resolve(**{"methods": ["combat"], **settings})


@pytest.mark.parametrize("load", [ArrayDataset, BIDSDataset, TableDataset])
def test_data_of_a_name_that_no_system_holds_are_missing(load: Callable[[Path], Dataset]) -> None:
    with pytest.raises(HarmbenchError, match="there is no f"):
        load(Path("x" * 5000)).load()
