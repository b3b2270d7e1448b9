"""The settings of `export` and `harmonize`: flags above those of a study file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harmbench import registry
from harmbench.config import MethodSpec, RunConfig, resolve
from harmbench.errors import HarmbenchError, unknown
from harmbench.study import read_study

READ = ("data", "data_options", "preset", "data_seed", "reference_site", "threads", "device")
"""Settings of a study file that these commands read; the others are for `harmbench run`."""


def resolved(
    flags: dict[str, Any],
    study: Path | None,
    *,
    needs: str = "",
    method: str | None = None,
    weights: str = "auto",
) -> RunConfig:
    """Return the settings, of one method or of none.

    Parameters
    ----------
    flags : dict
        Settings of `harmbench.config.resolve`, None where not given.
    study : Path or None
        File with further settings.
    needs : str
        A setting that must be given by one or the other.
    method : str or None
        A method's name, or the label of a variant that the study file declares.
    weights : str
        ``auto``, ``none``, or a folder of the method's weights.

    Raises
    ------
    HarmbenchError
        For missing settings and unknown names.
    """
    said = read_study(study) if study else {}
    settings = {name: value for name, value in said.items() if name in READ}
    options = {**settings.pop("data_options", {}), **(flags.pop("data_options", None) or {})}
    settings |= {name: value for name, value in flags.items() if value is not None}
    if needs and not settings.get(needs):
        raise HarmbenchError(f"nothing to read: name the {needs}, such as a BIDS folder")
    spec = None if method is None else _chosen(method, said.get("methods", ()))
    wish = weights if spec is None or weights in ("auto", "none") else f"{spec.title}={weights}"
    return resolve(
        **settings,
        data_options=options,
        methods=[] if spec is None else [spec],
        controls=("none",),
        weights=[wish],
    )


def _chosen(name: str, declared: Sequence[str | MethodSpec]) -> MethodSpec:
    specs = [MethodSpec(name=one) if isinstance(one, str) else one for one in declared]
    by_title = {spec.title: spec for spec in specs}
    if name not in by_title and ".py:" not in name and name not in registry.names("method"):
        raise unknown("method", name, {*by_title, *registry.names("method")})
    return by_title.get(name, MethodSpec(name=name))
