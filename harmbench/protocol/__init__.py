"""The protocol: all metrics, with one folder for each question."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harmbench.contracts.product import Product

    PRODUCTS: tuple[Product, ...]

MODULES = (
    "features.products",
    "probes.training",
    "probes.kinds",
    "site.accuracy",
    "site.kinds",
    "leakage.metrics",
    "leakage.pull",
    "biology.transfer",
)
"""Modules that declare products."""


def __getattr__(name: str) -> Any:
    if name != "PRODUCTS":
        raise AttributeError(f"module 'harmbench.protocol' has no attribute {name!r}")
    modules = [import_module(f"harmbench.protocol.{module}") for module in MODULES]
    return tuple(product for module in modules for product in module.PRODUCTS)
