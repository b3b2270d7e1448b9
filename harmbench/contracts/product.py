"""What the runner makes on demand and metrics share: predictions, features, trained probes.

Heavy work stands here, once per cell (or once per run), so that metrics stay light.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

from harmbench.contracts.metric import MetricInputs
from harmbench.progress import Progress


@dataclass(frozen=True)
class ProductContext:
    """What making a product may use besides its inputs.

    Attributes
    ----------
    seeds : tuple of int
        Probe seeds; a trained probe is trained once per seed.
    threads, device : int, str
        Where to compute.
    probe : mapping
        The probes' budget from the preset: fields of
        `harmbench.protocol.probes.training.ProbeConfig`.
    inception : str or None
        File of the Inception weights; None to look for them in the cache and on the network;
        ``"never"`` in smoke runs and tests.
    progress, log
        Where long work reports.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    threads: int = 1
    device: str = "cpu"
    probe: dict[str, Any] = field(default_factory=dict)
    inception: str | None = "never"
    progress: Progress = field(default_factory=Progress)
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("harmbench"))


Make = Callable[[MetricInputs, ProductContext], dict[str, NDArray]]


class ProductUnavailable(Exception):
    """Why a product cannot be had here; metrics that need it become skipped rows."""


@dataclass(frozen=True)
class Product:
    """A declared product.

    Attributes
    ----------
    name : str
        How metrics ask for it, such as ``"probe.age"``.
    needs, wants : tuple of str
        Products it is made of, as in `harmbench.contracts.metric.MetricInfo`.
    make : callable
        ``make(inputs, context)`` returns named arrays (numbers or fixed-width strings).
    scope : {"cell", "run"}
        Made once for each cell, or once for all (from raw images only).
    version : int
        Raised when what it makes changes.
    min_n : int
        Least number of test scans.
    reads : tuple of str
        Fields of the context that change the result, and so belong to its key.
    summary : str
        What it holds, for the list in docs/reference.md.
    """

    name: str
    needs: tuple[str, ...]
    make: Make
    wants: tuple[str, ...] = ()
    scope: Literal["cell", "run"] = "cell"
    version: int = 1
    min_n: int = 1
    reads: tuple[str, ...] = ()
    summary: str = ""
