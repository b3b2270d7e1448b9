"""Training in two processes on the processor, against the same training in one."""

import multiprocessing
import os
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harmbench.errors import HarmbenchError
from harmbench.progress import Progress
from harmbench.training.checkpoint import FILE
from harmbench.training.group import Group
from harmbench.training.loop import Phase, rows_at, train
from harmbench.training.process_state import seeded
from harmbench.training.processes import launch
from harmbench.training.settings import TrainConfig

CONFIG = TrainConfig(images=320, batch_size=8, lr=1e-2, schedule="cosine", ema=0.9, clip=1.0)
X = torch.randn(37, 5, generator=torch.Generator().manual_seed(1))
Y = X @ torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0]) + 1


class Batch(NamedTuple):
    x: Tensor
    references: Tensor
    weight: float

    def only(self, rows):
        return Batch(self.x[rows], self.references[:, rows], self.weight)


class Pair(nn.Module):
    """A generator and a critic that is differentiated twice; the last part is in no loss."""

    def __init__(self):
        super().__init__()
        self.maker = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 5))
        self.critic = nn.Sequential(nn.Linear(5, 7), nn.Softplus(), nn.Linear(7, 1))
        self.idle = nn.Linear(3, 2)


def critic_loss(model, batch, generator):
    real = batch.references[0].requires_grad_()
    score = model.critic(real)
    (slope,) = torch.autograd.grad(score.sum(), real, create_graph=True)
    fake = model.critic(model.maker(batch.x).detach())
    penalty = slope.square().sum(1).mean()
    return (fake - score).mean() + score.square().mean() + penalty, {"penalty": penalty}


def maker_loss(model, batch, generator):
    made = model.maker(batch.x)
    pull = (made - batch.references[1]).square().mean()
    return batch.weight * pull - model.critic(made).mean(), {"pull": pull}


def pair_batches(step):
    rows, other = rows_at(step, len(X), 8, 0), rows_at(step, len(X), 8, 1)
    return Batch(X[rows], torch.stack([X[other] + 2, 1 - X[rows]]), 3.0)


def noisy_loss(model, batch, generator):
    x, y = batch["x"], batch["y"]
    error = (model(x + 0.1 * torch.randn(x.shape, generator=generator))[:, 0] - y).square().mean()
    return error, {"root": error.sqrt()}


def noisy_batches(step):
    rows = rows_at(step, len(X), 8, seed=0)
    return {"x": X[rows], "y": Y[rows]}


def fit_pair():
    with seeded(3):
        model = Pair()
    both = [{"params": list(model.maker.parameters())}, {"params": list(model.idle.parameters())}]
    phases = [
        Phase(critic_loss, [{"params": list(model.critic.parameters())}], "critic"),
        Phase(maker_loss, both, "maker"),
    ]
    return train(model, phases, pair_batches, CONFIG, seed=0)


def fit_noisy(checkpoints=None, stop_at=None, progress=None, seed=0, norm=nn.LayerNorm):
    def batches(step):
        if step == stop_at and Group.current().first:
            os.kill(os.getpid(), signal.SIGINT)
        return noisy_batches(step)

    with seeded(3):
        model = nn.Sequential(nn.Linear(5, 9), norm(9), nn.ReLU(), nn.Dropout(0.1), nn.Linear(9, 1))
    config = replace(CONFIG, images=960)
    return train(
        model,
        noisy_loss,
        batches,
        config,
        seed=seed,
        checkpoints=checkpoints,
        progress=progress,
    )


def kept(result):
    arrays = {f"curve.{k}": torch.from_numpy(v) for k, v in result.curve.items()}
    return arrays | {f"ema.{k}": v for k, v in result.ema.state_dict().items()}


def all_fits(fabric, progress, folder):
    """Everything that ends well, in one start of processes."""
    save_file(kept(fit_pair()), folder / f"pair-{Group.current().rank}")
    save_file(kept(fit_noisy()), folder / f"noisy-{Group.current().rank}")
    save_file(kept(fit_noisy(norm=nn.BatchNorm1d)), folder / f"whole-{Group.current().rank}")
    try:
        fit_noisy(folder / "state", stop_at=41, norm=nn.BatchNorm1d)
        stopped = False
    except KeyboardInterrupt:
        stopped = True
    assert stopped
    progress.message("resuming")
    result = fit_noisy(folder / "state", progress=progress, norm=nn.BatchNorm1d)
    save_file(kept(result), folder / f"resumed-{Group.current().rank}")
    with pytest.raises(HarmbenchError, match="cannot be shared equally by 2 processes"):
        train(nn.Linear(5, 1), noisy_loss, noisy_batches, replace(CONFIG, batch_size=7), seed=0)


class Heard(Progress):
    """Writes what it is told into a file, since the first process has a copy of it."""

    def __init__(self, path):
        self.path = path

    def message(self, text):
        with self.path.open("a") as file:
            file.write(f"{text}\n")

    @contextmanager
    def task(self, description, total):
        yield self
        self.message("closed")

    def advance(self, amount=1.0, note=""):
        self.message(amount)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    heard = Heard(folder / "heard")
    launch(all_fits, folder, device="cpu", devices=2, progress=heard)
    files = [f"{name}-{rank}" for name in ("pair", "noisy", "whole", "resumed") for rank in (0, 1)]
    return {name: load_file(folder / name) for name in files}, heard, folder


def test_two_processes_make_the_weights_of_one_in_every_phase(two):
    one = kept(fit_pair())
    assert set(two[0]["pair-0"]) == set(one)
    for name, values in one.items():
        torch.testing.assert_close(two[0]["pair-0"][name], values, rtol=1e-4, atol=1e-5)


def test_noise_of_their_own_follows_the_curve_of_one_process(two):
    curves = [two[0]["noisy-0"], kept(fit_noisy()), kept(fit_noisy(seed=1))]
    both, one, other_seed = (c["curve.loss"].numpy().reshape(6, 20).mean(1) for c in curves)
    assert not np.array_equal(both, one)
    # No further from the curve of one process than another seed goes; and it learns.
    np.testing.assert_allclose(both, one, rtol=0.3)
    np.testing.assert_allclose(other_seed, one, rtol=0.3)
    assert both[-1] < 0.3 * both[0]


def test_processes_never_part(two):
    for name in ("pair", "noisy", "resumed"):  # the last has running statistics
        for key, values in two[0][f"{name}-0"].items():
            assert torch.equal(values, two[0][f"{name}-1"][key]), (name, key)


def test_interrupted_and_resumed_is_bit_for_bit_uninterrupted(two):
    files, _, folder = two
    assert set(files["resumed-0"]) == set(files["whole-0"])
    for name, values in files["whole-0"].items():
        assert torch.equal(files["resumed-0"][name], values), name
    assert [path.name for path in (folder / "state").iterdir()] == [FILE]


def test_progress_of_the_first_process_is_shown_here(two):
    first, *amounts, last = two[1].path.read_text().splitlines()
    assert (first, last) == ("resuming", "closed")
    assert sum(map(float, amounts)) == 960


def break_one(fabric, progress, how, folder):
    def batches(step):
        if step == 3 and not fabric.is_global_zero:
            (folder / "now").touch()
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise HarmbenchError("scan 17 cannot be read; mend it")
        return noisy_batches(step)

    train(nn.Linear(5, 1), noisy_loss, batches, CONFIG, seed=0)


@pytest.mark.parametrize(
    ("how", "message"),
    [("raised", "^scan 17 cannot be read; mend it$"), ("killed", "SIGKILL.*last saved state")],
)
def test_a_process_that_ends_early_ends_all_with_its_reason(how, message, tmp_path):
    with pytest.raises(HarmbenchError, match=message):
        launch(break_one, how, tmp_path, device="cpu", devices=2, progress=Progress())
    assert time.time() - (tmp_path / "now").stat().st_mtime < 15
    assert not multiprocessing.active_children()


def wait_for_ctrl_c(fabric, progress, folder):
    def batches(step):
        (folder / f"began-{Group.current().rank}").touch()
        time.sleep(0.02)
        return noisy_batches(step)

    config = replace(CONFIG, images=800_000)
    train(nn.Linear(5, 1), noisy_loss, batches, config, seed=0, checkpoints=folder / "state")


def test_ctrl_c_stops_all_after_the_state_is_saved(tmp_path):
    def press() -> None:
        while len(list(Path(tmp_path).glob("began-*"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        launch(wait_for_ctrl_c, tmp_path, device="cpu", devices=2, progress=Progress())
    assert (tmp_path / "state" / FILE).is_file()
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGINT) is before


def test_devices_that_are_not_there():
    with pytest.raises(HarmbenchError, match="give --device cuda"):
        launch(break_one, "", device="cuda:1", devices=2, progress=Progress())
    count = torch.cuda.device_count()
    with pytest.raises(HarmbenchError, match=f"this machine shows {count}"):
        launch(break_one, "", device="cuda", devices=count + 1, progress=Progress())
