"""The contract of a product: an intermediate result that metrics share.

Products are predictions, features and trained probes. The runner makes each of them on demand, once
per cell or once per run, so that metrics are fast.
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
    """What a product may use in addition to its inputs.

    Attributes
    ----------
    seeds : tuple of int
        Probe seeds; a probe is trained once per seed.
    threads, device : int, str
        Number of CPU threads, and the device of the computation.
    probe : mapping
        Settings of the probes from the preset: fields of
        `harmbench.protocol.probes.training.ProbeConfig`.
    inception : str or None
        File of the Inception weights. None: use the cache, or download them. ``"never"``: do not
        use them (smoke runs and tests).
    progress, log : Progress, logging.Logger
        Receive the progress and the messages of long computations.
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
    """Raised if a product is not available here; metrics that need it are skipped."""


@dataclass(frozen=True)
class Product:
    """A declared product.

    Attributes
    ----------
    name : str
        Name by which metrics request it, such as ``"probe.age"``.
    needs, wants : tuple of str
        Products that it is made from, as in `harmbench.contracts.metric.MetricInfo`.
    make : callable
        ``make(inputs, context)`` returns named arrays (numbers or fixed-width strings).
    scope : {"cell", "run"}
        Whether it is made once per cell, or once per run (from raw images only).
    version : int
        Increased when the product changes.
    min_n : int
        Smallest number of test scans.
    images : bool
        Whether it is made from images only, not from a table of features.
    reads : tuple of str
        Fields of the context that change the result and are therefore part of its key.
    summary : str
        Description of the content, for the list in docs/reference.md.
    """

    name: str
    needs: tuple[str, ...]
    make: Make
    wants: tuple[str, ...] = ()
    scope: Literal["cell", "run"] = "cell"
    version: int = 1
    min_n: int = 1
    images: bool = False
    reads: tuple[str, ...] = ()
    summary: str = ""
