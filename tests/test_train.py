"""Training without judging, and judging with saved weights, on a toy method trained in steps."""

import errno
import importlib
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import harmbench.data.toy
import harmbench.engine.train
from harmbench.cli.app import app
from harmbench.config import MethodSpec, RunConfig, resolve
from harmbench.contracts.method import Harmonizer
from harmbench.engine.run import run
from harmbench.engine.saved_weights import Saved
from harmbench.engine.train import train
from harmbench.errors import HarmbenchError
from harmbench.files.atomic import UNFINISHED
from harmbench.progress import Progress
from harmbench.training.cards import page, read_card

TOY = f"{Path(harmbench.data.toy.__file__)}:ToyDataset"
PLUGIN = '''
import os
import signal

import numpy as np
import torch
from torch import nn

from harmbench import Harmonizer, MethodInfo
from harmbench.training.loop import rows_at, train
from harmbench.training.settings import TrainConfig
from harmbench.files.models import load_model, save_model


class Shift(Harmonizer):
    """Learns in steps what to add to the images of each site."""

    budget = frozenset({"images"})
    inference = frozenset({"strength"})

    def __init__(self, images=240, lr=0.05, strength=1.0):
        self.images, self.lr, self.strength = images, lr, strength

    @property
    def info(self):
        return MethodInfo("shift", "Shift", "Adds a number to each site.", stochastic=True)

    @property
    def history(self):
        return self.curve

    def fit(self, cohort, context):
        with open(LOG, "a") as log:
            log.write(f"{context.seed} ")
        self.sites = cohort.sites
        site = torch.tensor([self.sites.index(s) for s in cohort.column("site")])
        means = torch.tensor(cohort.images.mean(axis=(1, 2)))
        aim = means[site == self.sites.index(context.reference_site)].mean()

        def batches(step):
            if step == 7 and os.path.exists(STOP):
                with open(STOP) as file:
                    os.kill(os.getpid(), getattr(signal, file.read()))
            rows = rows_at(step, len(means), 8, context.seed)
            return means[rows], site[rows]

        def loss(model, batch, generator):
            mean, site = batch
            noise = 0.01 * torch.randn(mean.shape, generator=generator)
            error = ((mean + noise + model(site)[:, 0] - aim) ** 2).mean()
            return error, {"root": error.sqrt()}

        model = nn.Embedding(len(self.sites), 1)
        nn.init.zeros_(model.weight)
        config = TrainConfig(images=self.images, batch_size=8, lr=self.lr)
        told = {"seed": context.seed, "progress": context.progress}
        trained = train(model, loss, batches, config, checkpoints=context.checkpoints, **told)
        self.shift = model.weight.detach().numpy()[:, 0]
        self.curve = dict(trained.curve)
        return self

    def harmonize(self, cohort, target=None, *, context):
        rows = [self.sites.index(site) for site in cohort.column("site")]
        return cohort.images + np.float32(self.strength) * self.shift[rows][:, None, None]

    def save(self, folder):
        arrays = {"shift": self.shift} | {f"curve.{k}": v for k, v in self.curve.items()}
        save_model(folder, arrays, {"params": self.params(), "sites": self.sites})

    @classmethod
    def load(cls, folder):
        arrays, config = load_model(folder)
        method = cls(**config["params"])
        method.sites, method.shift = config["sites"], arrays["shift"]
        curves = [k for k in arrays if k.startswith("curve.")]
        method.curve = {k.removeprefix("curve."): arrays[k] for k in curves}
        return method
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    file = tmp_path / "package" / "shift.py"
    paths = f"LOG, STOP = {str(tmp_path / 'fits.log')!r}, {str(tmp_path / 'stop')!r}\n"
    file.write_text(paths + PLUGIN)
    return file


def config(plugin: Path, params: dict | None = None, **settings) -> RunConfig:
    spec = MethodSpec(name=f"{plugin}:Shift", params=params or {})
    options = {"n": 111, "shape": [7, 9], **settings.pop("data_options", {})}
    common = {"data": TOY, "metrics": ["distance_pcc", "truth_mae"], "threads": 1}
    return resolve(methods=[spec], data_options=options, **{**common, **settings})


def fits(plugin: Path) -> list[str]:
    log = plugin.parents[1] / "fits.log"
    return log.read_text().split() if log.exists() else []


def scores(out: Path) -> bytes:
    return (out / "scores.csv").read_bytes()


def origins(out: Path) -> list[dict]:
    return json.loads((out / "methods.json").read_text())["Shift"]["weights"]


class Told(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def test_training_leaves_weights_a_card_and_a_page(tmp_path: Path, plugin: Path) -> None:
    [folder] = train(config(plugin), tmp_path / "w", command="harmbench train ...")
    assert folder == tmp_path / "w/Shift"
    assert folder.stat().st_mode & 0o077, "only its owner may read it"
    names = {path.name for path in folder.iterdir()}
    assert names == {"weights.safetensors", "model.json", "card.json", "README.md"}
    card = read_card(folder)
    assert (card.method, card.seed, card.images, card.reference_site) == ("shift", 0, 240, "site-a")
    assert card.params == {"images": 240, "lr": 0.05, "strength": 1.0}
    assert card.fingerprint == "toy-1-111-3-[7, 9]-1.0-0"
    assert set(card.files) == {"weights.safetensors", "model.json"}
    assert card.history["images"][-1] == 240
    assert card.history["loss"][-1] < 0.9 * card.history["loss"][0]
    assert set(card.versions) == {"harmbench", "torch", "numpy", "python"}
    text = (folder / "README.md").read_text()
    assert "harmbench train ..." in text
    assert "| reference site" in text
    assert str(tmp_path) not in text + (folder / "card.json").read_text()


def test_given_weights_score_as_a_run_that_trained_itself(tmp_path: Path, plugin: Path) -> None:
    [folder] = train(config(plugin), tmp_path / "w")
    run(config(plugin, weights=["none"]), tmp_path / "trained")
    assert fits(plugin) == ["0", "0"]
    progress = Told()
    run(config(plugin, weights=[f"Shift={folder}"]), tmp_path / "given", progress)
    assert fits(plugin) == ["0", "0"], "weights were given, and it was trained"
    assert scores(tmp_path / "trained") == scores(tmp_path / "given")
    assert "Shift, seed 0: given weights Shift (240 images seen)" in progress.lines
    [origin] = origins(tmp_path / "given")
    assert (origin["origin"], origin["images"], origin["name"]) == ("given", 240, "Shift")
    [origin] = origins(tmp_path / "trained")
    assert (origin["origin"], origin["images"]) == ("trained", 240)
    timing = pd.read_csv(tmp_path / "given/timing.csv")
    assert "load weights" in set(timing[timing["label"] == "Shift"]["stage"])
    assert "fit" not in set(timing[timing["label"] == "Shift"]["stage"])


def test_budget_may_differ_and_inference_is_what_is_asked(tmp_path: Path, plugin: Path) -> None:
    [folder] = train(config(plugin), tmp_path / "w")
    asked = {"strength": 0.5}
    run(config(plugin, asked, weights=["none"]), tmp_path / "trained")
    other = config(plugin, {**asked, "images": 80}, weights=[f"Shift={folder}"])
    run(other, tmp_path / "given")
    assert scores(tmp_path / "trained") == scores(tmp_path / "given")
    run(config(plugin, weights=[f"Shift={folder}"]), tmp_path / "whole")
    assert scores(tmp_path / "whole") != scores(tmp_path / "given")


@pytest.mark.parametrize(
    ("params", "settings", "difference"),
    [
        ({"lr": 0.1}, {}, "lr is 0.05 there and 0.1 here"),
        ({}, {"reference_site": "site-b"}, "reference site is 'site-a' there and 'site-b' here"),
        ({}, {"data_options": {"n": 114}}, "data fingerprint is 'toy-1-111-3-.*' there and 'toy"),
        ({}, {"data_seed": 4}, "split is '[0-9a-f]{16}' there and"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, plugin: Path, params: dict, settings: dict, difference: str
) -> None:
    [folder] = train(config(plugin), tmp_path / "w")
    asked = config(plugin, params, weights=[f"Shift={folder}"], **settings)
    with pytest.raises(HarmbenchError, match=difference):
        run(asked, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert fits(plugin) == ["0"]


def test_weights_that_change_after_their_hash_are_a_failed_row(
    tmp_path: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [folder] = train(config(plugin), tmp_path / "w")
    load = Saved.load

    def replaced(self: Saved, method: Harmonizer) -> Harmonizer:
        loaded = load(self, method)
        with (self.folder / "weights.safetensors").open("ab") as file:
            file.write(b" ")
        return loaded

    monkeypatch.setattr(Saved, "load", replaced)
    summary = run(config(plugin, weights=[f"Shift={folder}"]), tmp_path / "out")
    rows = summary.scores[summary.scores["label"] == "Shift"]
    assert set(rows["status"]) == {"failed"}
    assert all("weights.safetensors is not the file" in reason for reason in rows["reason"])


def test_shipped_weights_are_taken_up_where_they_fit(tmp_path: Path, plugin: Path) -> None:
    shipped = plugin.parent / "weights"
    for name, images in (("short", 80), ("long", 240)):
        [folder] = train(config(plugin, {"images": images}), tmp_path / name)
        shutil.copytree(folder, shipped / name)
    progress = Told()
    run(config(plugin, seeds=2), tmp_path / "auto", progress)
    assert fits(plugin) == ["0", "0", "1"], "seed 0 is shipped, seed 1 is not"
    assert "Shift, seed 0: shipped weights long (240 images seen)" in progress.lines
    [told] = [line for line in progress.lines if "seed 1" in line]
    assert "trained now" in told
    assert "seed is 0 there and 1 here" in told
    run(config(plugin, seeds=2, weights=["none"]), tmp_path / "none")
    assert fits(plugin)[3:] == ["0", "1"]
    assert scores(tmp_path / "auto") == scores(tmp_path / "none")
    kinds = [(o["seed"], o["origin"]) for o in origins(tmp_path / "auto")]
    assert kinds == [(0, "shipped"), (1, "trained")]


def test_other_weights_are_another_fit(tmp_path: Path, plugin: Path) -> None:
    [short] = train(config(plugin, {"images": 80}), tmp_path / "short")
    [long] = train(config(plugin), tmp_path / "long")
    run(config(plugin, weights=[f"Shift={short}"]), tmp_path / "out")
    before = scores(tmp_path / "out")
    run(config(plugin, weights=[f"Shift={long}"]), tmp_path / "out")
    assert scores(tmp_path / "out") != before
    assert origins(tmp_path / "out")[0]["images"] == 240


def test_a_run_that_is_extended_keeps_its_weights(tmp_path: Path, plugin: Path) -> None:
    [folder] = train(config(plugin), tmp_path / "w")
    run(config(plugin, weights=[f"Shift={folder}"]), tmp_path / "out")
    more = config(plugin).model_copy(update={"methods": (MethodSpec(name="blur"),), "weights": {}})
    run(more, tmp_path / "out")
    assert fits(plugin) == ["0"]
    assert origins(tmp_path / "out")[0]["origin"] == "given"


def test_files_that_are_not_those_of_the_card_are_refused(tmp_path: Path, plugin: Path) -> None:
    [folder] = train(config(plugin), tmp_path / "w")
    (folder / "weights.safetensors").write_text("a pointer to a large file")
    with pytest.raises(HarmbenchError, match=r"weights\.safetensors is not the file that card"):
        run(config(plugin, weights=[f"Shift={folder}"]), tmp_path / "out")
    (folder / "weights.safetensors").unlink()
    with pytest.raises(HarmbenchError, match=r"lacks weights\.safetensors"):
        run(config(plugin, weights=[f"Shift={folder}"]), tmp_path / "out")


def test_every_seed_has_its_folder(tmp_path: Path, plugin: Path) -> None:
    folders = train(config(plugin), tmp_path / "w", seeds=range(2))
    top = tmp_path / "w/Shift"
    assert folders == [top, top / "seed-1"]
    run(config(plugin, seeds=3, weights=[f"Shift={top}"]), tmp_path / "out")
    assert fits(plugin) == ["0", "1", "2"]
    assert [o["origin"] for o in origins(tmp_path / "out")] == ["given", "given", "trained"]
    with pytest.raises(HarmbenchError, match="holds seed 1 and this run asks for 1 from 0 on"):
        run(config(plugin, weights=[f"Shift={top / 'seed-1'}"]), tmp_path / "other")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_training_goes_on_to_the_same_weights(
    tmp_path: Path, plugin: Path, name: str
) -> None:
    [whole] = train(config(plugin), tmp_path / "whole")
    out = tmp_path / "broken"
    toy = f"[data_options]\nn = 111\nshape = [7, 9]\n[[methods]]\nname = '{plugin}:Shift'\n"
    (tmp_path / "study.toml").write_text(f"data = {TOY!r}\nthreads = 1\n{toy}")
    command = ["train", "--config", str(tmp_path / "study.toml"), "--out", str(out), "--quiet"]
    (tmp_path / "stop").write_text(name)
    stopped = CliRunner().invoke(app, command)
    assert stopped.exit_code == 130
    assert "the same command goes on" in stopped.output
    assert not (out / "Shift/card.json").exists()
    first = json.loads((out / "Shift/checkpoints/training.json").read_text())["seconds"]
    (tmp_path / "stop").unlink()
    with pytest.raises(HarmbenchError, match=r"unfinished.*images is 240 there and 480 here"):
        train(config(plugin, {"images": 480}), out)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "Shift, seed 0: 240 images" in done.output
    resumed = out / "Shift"
    for name in ("weights.safetensors", "model.json"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    card = read_card(resumed)
    assert card.history == read_card(whole).history
    assert card.seconds >= round(first, 1) > 0 or first < 0.05
    assert not (resumed / "checkpoints").exists()


def train_and_die(settings: RunConfig, out: Path, moment: str) -> None:
    """Train until this function is called, leave half of a file, and be killed."""
    room, _, name = moment.rpartition(".")

    def die(content: Any, *args: Any, **options: Any) -> None:
        for path in [content, *args]:
            if isinstance(path, Path) and path.is_file():
                path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(importlib.import_module(room), name, die)
    train(settings, out)


def test_a_training_killed_while_it_saves_goes_on_and_leaves_nothing(
    tmp_path: Path, plugin: Path
) -> None:
    [whole] = train(config(plugin), tmp_path / "whole")
    out = tmp_path / "killed"
    context = multiprocessing.get_context("spawn")
    for moment in ("harmbench.training.checkpoint.save_file", "harmbench.engine.train.file_hashes"):
        process = context.Process(target=train_and_die, args=(config(plugin), out, moment))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        assert list(out.rglob(f"{UNFINISHED}*")), "killed in the middle of a write"
    [folder] = train(config(plugin), out)
    assert not list(out.rglob(f"{UNFINISHED}*"))
    names = {path.name for path in whole.iterdir()}
    assert {path.name for path in folder.iterdir()} == names
    assert "checkpoints" not in names
    for name in ("weights.safetensors", "model.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_a_training_that_another_has_just_finished_is_not_begun_again(
    tmp_path: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [folder] = train(config(plugin), tmp_path / "w")
    # As it was when this one looked, before the other let go of the folder.
    seen = iter([False, True])
    monkeypatch.setattr(
        harmbench.engine.train.Place, "finished", property(lambda place: next(seen))
    )
    monkeypatch.setattr(harmbench.engine.train.Place, "check", lambda *_: None)
    with pytest.raises(HarmbenchError, match=f"just finished in {folder}"):
        train(config(plugin), tmp_path / "w")
    assert fits(plugin) == ["0"]


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (errno.ENOENT, FileNotFoundError, "^.Errno 2. mine$"),
        (errno.ENOSPC, HarmbenchError, "cannot be written"),
    ],
)
def test_an_error_of_the_method_is_not_told_as_one_of_the_folder(
    tmp_path: Path, plugin: Path, number: int, kind: type[Exception], says: str
) -> None:
    text = plugin.read_text()
    plugin.write_text(text.replace("self.sites = cohort.sites", f"raise OSError({number}, 'mine')"))
    with pytest.raises(kind, match=says):
        train(config(plugin), tmp_path / "w")


def test_nothing_is_overwritten(tmp_path: Path, plugin: Path) -> None:
    [folder] = train(config(plugin), tmp_path / "w")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    train(config(plugin), tmp_path / "w")
    with pytest.raises(HarmbenchError, match=r"finished.*images is 240 there and 480.*--out"):
        train(config(plugin, {"images": 480}), tmp_path / "w")
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert fits(plugin) == ["0"]
    (tmp_path / "mine/Shift").mkdir(parents=True)
    (tmp_path / "mine/Shift/thesis.tex").touch()
    with pytest.raises(HarmbenchError, match="files that no training left there"):
        train(config(plugin), tmp_path / "mine")


def test_cross_fitted_data_have_no_one_set_of_weights(tmp_path: Path, plugin: Path) -> None:
    few = config(plugin, data_options={"n": 60})
    with pytest.raises(HarmbenchError, match="cross-fitted"):
        train(few, tmp_path / "few")
    assert not (tmp_path / "few").exists()
    [folder] = train(config(plugin), tmp_path / "w")
    wish = {"Shift": str(folder)}
    with pytest.raises(HarmbenchError, match="fitted several times"):
        run(few.model_copy(update={"weights": wish}), tmp_path / "out")


def test_a_folder_without_a_card_is_named(tmp_path: Path, plugin: Path) -> None:
    with pytest.raises(HarmbenchError, match=r"no card\.json in it"):
        run(config(plugin, weights=[f"Shift={tmp_path}"]), tmp_path / "out")


def test_the_listing_says_what_is_shipped(tmp_path: Path, plugin: Path) -> None:
    from harmbench.cli.listing import show

    name = f"{plugin}:Shift"
    assert "240 images" not in show("method", name)
    [folder] = train(config(plugin), tmp_path / "w")
    shutil.copytree(folder, plugin.parent / "weights/shift-toy")
    assert "shift-toy (seed 0, 240 images)" in show("method", name)


def test_a_page_without_a_curve_has_no_table_of_it(tmp_path: Path) -> None:
    toy = {"data": TOY, "data_options": {"n": 111, "shape": [7, 9]}, "threads": 1}
    [folder] = train(resolve(methods=["blur"], **toy), tmp_path / "w", seeds=[0])
    card = read_card(folder)
    assert (card.images, card.history) == (0, {})
    assert "Training curve" not in page(card)
