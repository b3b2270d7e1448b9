import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from harmbench.errors import HarmbenchError
from harmbench.training import checkpoint
from harmbench.training.checkpoint import FILE
from harmbench.training.loop import Diverged, Phase, rows_at, train
from harmbench.training.process_state import seeded, threads
from harmbench.training.settings import TrainConfig

CONFIG = TrainConfig(images=120, batch_size=8, lr=1e-2, schedule="cosine", warmup=16, ema=0.9)
X = torch.randn(37, 5, generator=torch.Generator().manual_seed(1))
Y = X @ torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0]) + 1


def network() -> nn.Module:
    with seeded(3):
        return nn.Sequential(
            nn.Linear(5, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.2), nn.Linear(9, 1)
        )


def batches(step):
    rows = rows_at(step, len(X), 8, seed=0)
    return X[rows], Y[rows]


def loss(model, batch, generator):
    x, y = batch
    noise = 0.1 * torch.randn(x.shape, generator=generator)
    error = ((model(x + noise)[:, 0] - y) ** 2).mean()
    return error, {"root": error.sqrt()}


def weights(model):
    return torch.cat([v.flatten().double() for v in model.state_dict().values()])


def test_training_learns_and_keeps_a_curve():
    result = train(network(), loss, batches, replace(CONFIG, images=1600), seed=0)
    curve = result.curve
    assert set(curve) == {"images", "loss", "root"}
    assert curve["images"][-1] == 1600
    assert curve["loss"][-10:].mean() < 0.5 * curve["loss"][:10].mean()


def test_same_seed_same_bits_other_seed_other_weights():
    models = [network() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        train(model, loss, batches, CONFIG, seed=seed)
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert not torch.equal(weights(models[0]), weights(models[2]))


def test_ambient_randomness_is_neither_read_nor_moved():
    before = torch.random.get_rng_state()
    one, other = network(), network()
    train(one, loss, batches, CONFIG, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    with seeded(99):
        train(other, loss, batches, CONFIG, seed=0)
    assert torch.equal(weights(one), weights(other))


@pytest.mark.parametrize("at", [1, 7, 14])
def test_interrupted_and_resumed_is_bit_for_bit_uninterrupted(tmp_path, at):
    whole = network()
    expected = train(whole, loss, batches, CONFIG, seed=0)

    def with_ctrl_c(step):
        if step == at:
            os.kill(os.getpid(), signal.SIGINT)
        return batches(step)

    broken = network()
    with pytest.raises(KeyboardInterrupt):
        train(broken, loss, with_ctrl_c, CONFIG, seed=0, checkpoints=tmp_path)
    assert not torch.equal(weights(broken), weights(whole)) or at == 14

    resumed = nn.Sequential(*network())
    nn.init.zeros_(resumed[0].weight)  # must be replaced by the saved state
    seen = []
    result = train(
        resumed,
        loss,
        lambda step: seen.append(step) or batches(step),
        CONFIG,
        seed=0,
        checkpoints=tmp_path,
    )
    assert seen == list(range(at + 1, CONFIG.steps))
    assert torch.equal(weights(resumed), weights(whole))
    assert torch.equal(weights(result.ema), weights(expected.ema))
    for name, values in expected.curve.items():
        np.testing.assert_array_equal(result.curve[name], values)


def test_ctrl_c_during_the_last_save_is_heard(tmp_path, monkeypatch):
    save = checkpoint.save_file

    def with_ctrl_c(*args, **options):
        os.kill(os.getpid(), signal.SIGINT)
        save(*args, **options)

    monkeypatch.setattr(checkpoint, "save_file", with_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        train(network(), loss, batches, CONFIG, seed=0, checkpoints=tmp_path)
    monkeypatch.undo()
    whole, resumed = network(), network()
    train(whole, loss, batches, CONFIG, seed=0)
    train(resumed, loss, batches, CONFIG, seed=0, checkpoints=tmp_path)
    assert torch.equal(weights(resumed), weights(whole))


def test_ctrl_c_handler_is_put_back():
    before = signal.getsignal(signal.SIGINT)
    train(network(), loss, batches, CONFIG, seed=0)
    assert signal.getsignal(signal.SIGINT) is before


def test_state_of_another_training_is_refused(tmp_path):
    train(network(), loss, batches, CONFIG, seed=0, checkpoints=tmp_path)
    with pytest.raises(HarmbenchError, match="another budget, seed or network"):
        train(network(), loss, batches, CONFIG, seed=1, checkpoints=tmp_path)


def test_damaged_state_says_what_to_do(tmp_path):
    (tmp_path / FILE).write_bytes(b"no tensors here")
    with pytest.raises(HarmbenchError, match="delete it"):
        train(network(), loss, batches, CONFIG, seed=0, checkpoints=tmp_path)


def test_checkpoint_leaves_one_file(tmp_path):
    config = replace(CONFIG, checkpoint_minutes=0)
    train(network(), loss, batches, config, seed=0, checkpoints=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_average_is_that_of_the_weights():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    seen = []

    def pull(net, batch, generator):
        seen.append(float(model.weight.detach()))
        return -net(torch.ones(1, 1)).sum(), {}

    config = TrainConfig(images=30, batch_size=1, ema=0.8)
    result = train(model, pull, lambda step: step, config, seed=0)
    mean = 0.0
    for step, value in enumerate([*seen[1:], float(model.weight.detach())]):
        decay = min(0.8, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * value
    assert float(result.ema.weight) == pytest.approx(mean, rel=1e-5)
    assert not result.ema.training


def test_clip_limits_the_gradient():
    def first_step(clip):
        model = nn.Linear(5, 1)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        config = TrainConfig(images=8, batch_size=8, lr=1.0, clip=clip)
        train(model, lambda m, b, g: ((m(b[0]) - 1).sum(), {}), batches, config, seed=0)
        return abs(model.bias.item())

    # Adam's first step is lr * g / (|g| + 1e-8): 1, unless g is far below its epsilon.
    assert first_step(0.0) == pytest.approx(1, rel=1e-3)
    assert first_step(1e-10) < 0.02


def test_loss_that_is_not_finite_is_an_error():
    def broken(model, batch, generator):
        return model(batch[0]).sum() * float("nan"), {}

    with pytest.raises(Diverged, match="lower the learning rate"):
        train(network(), broken, batches, CONFIG, seed=0)


def test_phases_move_only_their_own_parameters():
    model = nn.ModuleDict({"a": nn.Linear(5, 1), "b": nn.Linear(5, 1), "c": nn.Linear(5, 1)})
    initial = {name: part.weight.detach().clone() for name, part in model.items()}
    reached = []

    def both(net, batch, generator):
        output = model["a"](batch[0]) + model["b"](batch[0]) + model["c"](batch[0])
        reached.append({name: part.weight.requires_grad for name, part in model.items()})
        return output.square().mean(), {}

    phases = [
        Phase(both, [{"params": list(model["a"].parameters())}], "first"),
        Phase(both, [{"params": list(model["b"].parameters()), "lr": 0.0}], "second"),
    ]
    result = train(model, phases, batches, CONFIG, seed=0)
    changed = {name: not torch.equal(p.weight, initial[name]) for name, p in model.items()}
    assert changed == {"a": True, "b": False, "c": False}
    assert reached[:2] == [
        {"a": True, "b": False, "c": False},
        {"a": False, "b": True, "c": False},
    ]
    assert all(p.requires_grad for p in model.parameters())
    assert {"first.loss", "second.loss"} < set(result.curve)


def test_observer_sees_the_averaged_model_in_evaluation():
    seen = []
    train(
        network(),
        loss,
        batches,
        CONFIG,
        seed=0,
        observe=lambda model, images: seen.append((images, model.training)),
        observe_every=50,
    )
    assert [images for images, _ in seen] == [56, 104, 120]
    assert not any(training for _, training in seen)


@pytest.mark.parametrize("batch_size", [5, 7, 80])
def test_order_shows_every_row_once_in_each_pass(batch_size):
    n = 35
    rows = torch.cat([rows_at(step, n, batch_size, seed=4) for step in range(4 * n)])
    for start in range(0, 3 * n, n):
        assert rows[start : start + n].sort().values.tolist() == list(range(n))
    assert rows[:n].tolist() != rows[n : 2 * n].tolist()


@pytest.mark.parametrize(
    ("schedule", "half", "last"), [("constant", 1, 1), ("cosine", 0.5, 0.01), ("linear", 0.5, 0.02)]
)
def test_schedules(schedule, half, last):
    config = TrainConfig(images=1000, batch_size=10, schedule=schedule)
    assert config.rate(0) == pytest.approx(1)
    assert config.rate(50) == pytest.approx(half)
    assert config.rate(99) <= last


def test_warmup_rises_linearly():
    config = TrainConfig(images=1000, batch_size=10, warmup=100)
    assert [config.rate(step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1, 1])


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
