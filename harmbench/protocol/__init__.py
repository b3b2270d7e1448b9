"""The protocol: what is measured, exactly. One module for each question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harmbench.product import Product

    PRODUCTS: tuple[Product, ...]

ROOMS = ("features", "probes", "site", "site_kinds", "leakage", "pull", "transfer")
"""Modules that declare products."""


def __getattr__(name: str) -> Any:
    if name != "PRODUCTS":
        raise AttributeError(f"module 'harmbench.protocol' has no attribute {name!r}")
    from importlib import import_module

    modules = [import_module(f"harmbench.protocol.{room}") for room in ROOMS]
    return tuple(product for module in modules for product in module.PRODUCTS)
