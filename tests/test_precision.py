"""Which precision a training has: asked of the hardware, stated, kept, and part of the key."""

import numpy as np
import pytest
import torch

from baselines.cvae.method import CVAE
from baselines.style_gan.method import StyleGAN
from ddae.method import DDAE, ddae_blind
from harmbench.config import MethodSpec, resolve
from harmbench.contracts.method import ApplyContext, FitContext
from harmbench.data.splits import Split
from harmbench.data.toy import ToyDataset
from harmbench.engine.keys import Cell, Keys
from harmbench.engine.saved_weights import trained_here
from harmbench.training import precision

TINY = {
    DDAE: {"images": 32, "channels": 8, "multipliers": (1, 2), "patch": 4, "steps": 2},
    CVAE: {"images": 16, "width": 8, "depth": 1, "grid": 8},
    StyleGAN: {"images": 16, "channels": 4, "style_dim": 3},
}
HARDWARE = {"native": "bf16-mixed", "emulated": "32-true"}


def pretend(monkeypatch, hardware):
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: hardware == "native")


@pytest.mark.parametrize("make", [DDAE, ddae_blind, CVAE, StyleGAN])
@pytest.mark.parametrize(("hardware", "expected"), HARDWARE.items())
def test_every_trained_method_asks_the_hardware(make, hardware, expected, monkeypatch):
    pretend(monkeypatch, hardware)
    assert precision.precision_of(make().params(), "cpu") == expected


@pytest.mark.parametrize("hardware", HARDWARE)
@pytest.mark.parametrize("kind", TINY)
def test_both_ways_of_training_work_on_any_machine(kind, hardware, monkeypatch):
    used = []
    pretend(monkeypatch, hardware)
    monkeypatch.setattr(
        torch,
        "autocast",
        lambda *args, _real=torch.autocast, **kwargs: (
            used.append(kwargs.get("dtype")),
            _real(*args, **kwargs),
        )[1],
    )
    cohort = ToyDataset(n=28, sites=2, shape=(32, 32)).load()
    method = kind(**TINY[kind]).fit(cohort, FitContext(reference_site=cohort.sites[0]))
    out = method.harmonize(cohort, context=ApplyContext())
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    assert (torch.bfloat16 in used) == (hardware == "native")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"bf16": True, "architecture": "arm64"}, True),
        ({"avx512_f": True, "avx512_bf16": False}, False),
        ({"avx2": True}, False),
        ({}, False),
    ],
)
def test_a_cpu_is_asked_for_its_instructions(capabilities, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert precision.multiplies_bfloat16("cpu") == expected
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not precision.multiplies_bfloat16("cpu")


def test_a_torch_that_cannot_tell_trains_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert precision.resolve_precision("auto", "cpu") == "32-true"


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_must_not_emulate(native, monkeypatch):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or native
    )
    assert precision.multiplies_bfloat16("cuda:1") == native


def test_other_devices_train_in_float32():
    assert precision.resolve_precision("auto", "mps") == "32-true"


def test_a_stated_precision_is_kept():
    assert precision.resolve_precision("16-mixed", "cpu") == "16-mixed"


def test_fits_of_two_precisions_have_two_keys(monkeypatch):
    spec = MethodSpec(name="cvae")
    cell = Cell(spec, CVAE().info)

    def key(hardware, params=None, weights=None):
        pretend(monkeypatch, hardware)
        own = spec if params is None else spec.model_copy(update={"params": params})
        asked = Cell(own, cell.info)
        keys = Keys(
            resolve(methods=["cvae"]), "data", "a", {}, {}, Split(np.array(["fit"])), weights or {}
        )
        return keys.fit(asked)

    assert key("native") != key("emulated")
    stated = {"precision": "32-true"}
    assert key("native", stated) == key("emulated", stated)
    saved = {cell.id: "hash"}
    assert key("native", weights=saved) == key("emulated", weights=saved)


@pytest.mark.parametrize(("hardware", "expected"), HARDWARE.items())
def test_a_run_says_the_precision(hardware, expected, monkeypatch):
    pretend(monkeypatch, hardware)
    assert trained_here(CVAE(), "cpu")["precision"] == expected
