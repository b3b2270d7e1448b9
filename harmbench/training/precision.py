"""Precision of a training: bfloat16 if the hardware supports it natively, otherwise float32."""

from __future__ import annotations

from typing import Any, Literal

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
"""A precision of Lightning Fabric, or ``"auto"``."""
CPU_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
"""Names in `torch.cpu.get_capabilities` of instructions that multiply bfloat16 (x86-64, ARM)."""


def multiplies_bfloat16(device: str) -> bool:
    """Return whether a device such as ``"cuda:1"`` multiplies bfloat16 natively.

    Otherwise torch emulates bfloat16, more than ten times slower than float32.
    """
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    # Not available before torch 2.11.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in CPU_INSTRUCTIONS)


def resolve_precision(precision: Precision, device: str) -> Precision:
    """Return the given precision, or the fast one of the device if it is ``"auto"``."""
    if precision != "auto":
        return precision
    return "bf16-mixed" if multiplies_bfloat16(device) else "32-true"


def precision_of(params: dict[str, Any], device: str) -> str:
    """Return the precision in which a method with these arguments is trained on the device.

    It is ``""`` for a method without an argument `precision`.
    """
    return resolve_precision(params["precision"], device) if "precision" in params else ""
