"""How much of the machine the networks use: their speed as a share of a plain matrix product's.

Every row is one real call (`fit`, `harmonize`, a probe's training, `extract`) at the sizes of the
standard preset. Its floating-point operations are counted by torch, and its rate is divided by that
of a product of two matrices on the same threads and in the same precision, measured in turns with
it. Time is processor time on a processor, so that other work on the machine counts little, and wall
time on a GPU.

``python benchmarks/networks.py [WORD ...] [--device cuda] [--repeats N] [--json FILE]``
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from tabulate import tabulate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from baselines.cvae.method import CVAE
from baselines.style_gan.method import StyleGAN
from ddae.method import DDAE
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import ApplyContext, FitContext
from harmbench.contracts.product import ProductContext
from harmbench.protocol.features.products import extract
from harmbench.protocol.probes.network import ProbeConfig, ProbeData, train_probe

SIDE = 1024
"""Of the matrices that set the scale."""
IMAGES = 128
"""Rendered, or read for features, in one call."""
STEPS = 12
"""Batches of a training."""
PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}


class Row(NamedTuple):
    """One call to measure.

    Attributes
    ----------
    call : callable
        Without arguments.
    units : int
        Images, or for a renderer in steps images times steps, in one call.
    precision : {"float32", "bfloat16"}
        Of its matrix products.
    """

    call: Callable[[], object]
    units: int
    precision: str


class Counter(TorchDispatchMode):
    """Counts operations as `FlopCounterMode` does, which cannot follow a gradient of a gradient."""

    total = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        count = flop_registry.get(function.overloadpacket)
        if count is None:
            with self:  # what is done without gradients arrives in larger pieces
                out = function.decompose(*args, **kwargs)
            return function(*args, **kwargs) if out is NotImplemented else out
        out = function(*args, **kwargs)
        self.total += count(*args, **kwargs, out_val=out)
        return out


def make_cohort(n: int) -> Cohort:
    from harmbench.data.phantom import phantom_dev

    return phantom_dev(n=n).load()


def rows(device: str, threads: int) -> dict[str, Row]:
    """Return the calls by name."""
    cohort = make_cohort(140)
    rendered = cohort.subset(np.resize(np.arange(len(cohort)), IMAGES))
    rendered = rendered.with_covariates(participant_id=[f"p{i}" for i in range(IMAGES)])
    fit = FitContext(reference_site=cohort.sites[0], device=device, threads=threads)
    apply = ApplyContext(device=device, threads=threads)
    made: dict[str, Row] = {}
    for name, kind, options in (
        ("ddae", DDAE, {"validate": False}),
        ("cvae", CVAE, {}),
        ("gan", StyleGAN, {}),
    ):
        for label, precision in PRECISIONS.items():
            batch = kind().batch_size
            method = kind(images=STEPS * batch, precision=precision, **options)
            made[f"{name} training, {label}"] = Row(
                lambda m=method: m.fit(cohort, fit), STEPS * batch, label
            )
        short = kind(images=batch, precision="32-true", **options)
        short.fit(cohort, fit)
        evaluations = 2 * short.steps if isinstance(short, DDAE) else 1
        made[f"{name} rendering, float32"] = Row(
            lambda m=short: m.harmonize(rendered, context=apply), IMAGES * evaluations, "float32"
        )
    made["probe training, float32"] = Row(*probe(cohort, device), "float32")
    images = np.array(rendered.images)
    context = ProductContext(seeds=(0,), threads=threads, device=device)
    made["random-conv features, float32"] = Row(
        lambda: extract(images, "random-conv", context), IMAGES, "float32"
    )
    return made


def probe(cohort: Cohort, device: str) -> tuple[Callable[[], object], int]:
    """Return a training of the site probe's three networks, and the images they see."""
    labels = np.unique(cohort.column("site").astype(str), return_inverse=True)[1]
    rows = np.arange(len(labels))
    held = rows < ProbeConfig.validation * len(rows)
    data = ProbeData(
        np.array(cohort.images), labels.astype(np.int64), int(labels.max()) + 1,
        [rows[~held]] * 3, [rows[held]] * 3,
    )  # fmt: skip
    config = ProbeConfig(images=STEPS * ProbeConfig.batch_size)
    return lambda: train_probe(data, (0, 1, 2), config, device), 3 * config.images


def seconds(call: Callable[[], object], device: str) -> float:
    """Return what a call takes: processor time, or wall time where a GPU works."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    start = clock()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def product(precision: str, device: str) -> tuple[Callable[[], object], int]:
    """Return a few products of two matrices, and their floating-point operations."""
    side = SIDE if device == "cpu" else 8 * SIDE
    one, two = torch.randn(2, side, side, device=device, dtype=getattr(torch, precision))
    return lambda: [one @ two for _ in range(4)], 4 * 2 * side**3


def measure(name: str, row: Row, device: str, repeats: int) -> dict[str, float | str]:
    """Return the row's speed, its rate and the share of a matrix product's."""
    plain, per_product = product(row.precision, device)
    plain()
    with Counter() as counter:
        row.call()
    operations = counter.total
    own, scale = [], []
    for _ in range(repeats):
        scale.append(seconds(plain, device))
        own.append(seconds(row.call, device))
    mine, products = statistics.median(own), statistics.median(scale)
    rate = operations / mine
    return {
        "call": name,
        "units a second": row.units / mine,
        "GFLOP a second": rate / 1e9,
        "matrix product": per_product / products / 1e9,
        "share": rate / (per_product / products),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", help="words of the rows to measure; default: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = []
    for name, row in rows(arguments.device, arguments.threads).items():
        if all(word in name for word in arguments.rows):
            found.append(measure(name, row, arguments.device, arguments.repeats))
            print(f"{name}: {found[-1]['share']:.0%}", flush=True)
    print(tabulate(found, headers="keys", floatfmt=("", ".0f", ".1f", ".1f", ".2f")))
    speed = {one["call"]: one["units a second"] for one in found}
    for name in ("ddae", "cvae", "gan"):
        single, half = (speed.get(f"{name} training, {p}") for p in PRECISIONS)
        if single and half:
            print(f"{name} training: bfloat16 is {half / single:.2f} times as fast as float32")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
