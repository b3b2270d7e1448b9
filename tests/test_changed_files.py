"""Data and plug-ins that change between two runs, or during one, are noticed and never mixed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harmbench.config import RunConfig, resolve
from harmbench.data.arrays import ArrayDataset, save_npz
from harmbench.data.bids_write import write_bids
from harmbench.data.phantom import phantom_dev
from harmbench.data.toy import ToyDataset
from harmbench.engine.run import run
from harmbench.engine.train import train
from harmbench.errors import HarmbenchError
from harmbench.exchange.export import export

PLUGIN = '''
from pathlib import Path

import numpy as np
from harmbench import Harmonizer, MethodInfo

ADDED = 0.25


class Adds(Harmonizer):
    """Returns a number, and writes another one into this file while it is fitted."""

    @property
    def info(self):
        return MethodInfo("adds", "Adds", "returns a number")

    def fit(self, cohort, context):
        file = Path(__file__)
        (file.parent / "fits.log").open("a").write(f"{ADDED} ")
        file.write_text(file.read_text().replace("ADDED = 0.25", "ADDED = 0.5"))
        return self

    def harmonize(self, cohort, target=None, *, context):
        return np.full_like(cohort.images, ADDED)
'''


def config(data: Path, *methods: str, **settings: Any) -> RunConfig:
    told = {"methods": methods, "controls": ["none"], "metrics": ["distance_pcc"], "threads": 1}
    return resolve(data=str(data), **told | settings)


def npz(room: Path, n: int = 60) -> tuple[Path, Callable[[], None]]:
    file = room / "toy.npz"
    cohort = ToyDataset(n).load()
    save_npz(cohort, file)

    def change() -> None:
        images = cohort.images.copy()
        images[7, 8, 8] += np.float32(0.01)
        save_npz(cohort.with_images(images), file)

    return file, change


def csv(room: Path) -> tuple[Path, Callable[[], None]]:
    file = room / "features.csv"
    cohort = ToyDataset(60, shape=(2, 3)).load()
    columns = [f"f{i}" for i in range(6)]
    table = pd.DataFrame(cohort.images.reshape(60, -1), columns=columns).round(4)
    table += np.random.default_rng(0).uniform(1, 2, table.shape).round(4)
    names = cohort.participants[["participant_id", "site", "age", "sex"]]
    pd.concat([names, table], axis=1).to_csv(file, index=False)

    def change() -> None:
        text = file.read_text()
        file.write_text(text[:-2] + str((int(text[-2]) + 1) % 10) + "\n")

    return file, change


def bids(room: Path) -> tuple[Path, Callable[[], None]]:
    phantom = phantom_dev(n=24, n_sites=2, size=32)
    write_bids(phantom.load(), room / "study", spacing_mm=phantom.spacing_mm, name="study")

    def change() -> None:
        table = room / "study/participants.tsv"
        table.write_text(table.read_text().replace("\tF", "\tM", 1))

    return room / "study", change


def bids_image(room: Path) -> tuple[Path, Callable[[], None]]:
    import nibabel as nib

    study, _ = bids(room)
    file = sorted(study.rglob("*T1w.nii.gz"))[3]

    def change() -> None:
        image = nib.load(file)
        nib.save(nib.Nifti1Image(image.get_fdata() * 0.99, image.affine), file)

    return study, change


@pytest.mark.parametrize("kind", [npz, csv, bids, bids_image])
def test_data_that_change_between_two_runs_are_refused(tmp_path: Path, kind: Any) -> None:
    data, change = kind(tmp_path)
    method = "combat" if kind is csv else "blur"
    out = tmp_path / "out"
    run(config(data, method), out)
    times = {file: file.stat() for file in [data, *data.rglob("*")]}
    change()
    for file, was in times.items():  # neither time nor size gives it away
        os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    with pytest.raises(HarmbenchError, match="holds another run: fingerprint is '"):
        run(config(data, method), out)
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*")}


@pytest.mark.parametrize("work", [run, export, train])
def test_data_that_change_while_they_are_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Any
) -> None:
    file, change = npz(tmp_path, 480)
    load = ArrayDataset.load

    def changing(self: ArrayDataset, progress: Any = None) -> Any:
        change()
        return load(self, progress)

    monkeypatch.setattr(ArrayDataset, "load", changing)
    with pytest.raises(HarmbenchError, match=r"toy\.npz changed while they were read"):
        work(config(file, "blur"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_plugin_edited_in_mid_run_is_that_of_the_begin_and_next_time_anew(tmp_path: Path) -> None:
    plugin, out = tmp_path / "mine.py", tmp_path / "out"
    plugin.write_text(PLUGIN)
    data, _ = npz(tmp_path)
    added = []
    for _ in range(2):
        run(config(data, f"{plugin}:Adds"), out)
        images = {p: np.load(p) for p in out.glob("cells/Adds-*/**/harmonized.test-*.npy")}
        added.append({p: float(np.median(x[:, 8, 8])) for p, x in images.items()})
    first, both = added
    assert set(first.values()) == {0.25}
    assert {both[p] for p in first} == {0.25}, "a result of the code before was replaced"
    assert {x for p, x in both.items() if p not in first} == {0.5}
    assert (tmp_path / "fits.log").read_text() == "0.25 " * 5 + "0.5 " * 5
