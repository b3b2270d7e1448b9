"""The data sheet, the list of missing values, and the provenance of the pages."""

from __future__ import annotations

import json
import shlex
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harmbench.contracts.dataset import NOTE_KINDS
from harmbench.data.confounding import Confounding, confounding
from reports.results import Results
from reports.tables import NONE

PARTS = ("fit", "probe", "test", "folds", "left out")
"""Parts as they are shown; all folds of cross-fitted data are one."""


class Ages(NamedTuple):
    """The quartiles of a site's ages, in years."""

    youngest: float
    lower: float
    median: float
    upper: float
    oldest: float


class Sheet(NamedTuple):
    """The data sheet.

    Attributes
    ----------
    summary, license, doi : str
        From the declaration of the data set.
    facts : list of (str, str)
        Facts on the whole cohort.
    sites : DataFrame
        One row for each site, as texts.
    ages : list of Ages or None
        The ages of every site; None if no age is known.
    age_ends : tuple of float
        Ends of the scale of ages, in multiples of ten years.
    confounding : list of (str, str, str)
        What is confounded with site: its name, its number, and its meaning.
    notes, read, set_aside : list of str
        Warnings on data and split, what was read, and what was set aside and why.
    """

    summary: str
    license: str
    doi: str
    facts: list[tuple[str, str]]
    sites: pd.DataFrame
    ages: list[Ages | None]
    age_ends: tuple[float, float]
    confounding: list[tuple[str, str, str]]
    notes: list[str]
    read: list[str]
    set_aside: list[str]


def data_sheet(results: Results) -> Sheet:
    """Return the numbers, ages and sexes of the cohort by site, and the split."""
    info = results.config["dataset"]
    table = results.participants
    scans = table.drop_duplicates(["participant_id", "site", "session_id"])
    subjects = table.drop_duplicates("participant_id")
    at_sites = table.drop_duplicates(["participant_id", "site"])
    shape = results.folder.cohort().shape
    facts = [
        ("Subjects", str(len(subjects))),
        ("Scans", str(len(scans))),
        ("Images", f"{len(table)} of {' × '.join(map(str, shape))}"),
        ("Sites", str(len(results.sites))),
        ("Reference site", results.reference_site),
        ("Age", _ages(subjects["age"])),
        ("Female", _female(subjects["sex"])),
        ("Scanned at several sites", str(len(at_sites) - len(subjects))),
        ("Images by part", ", ".join(f"{part} {n}" for part, n in _by_part(table).items() if n)),
    ]
    return Sheet(
        summary=info.get("summary", ""),
        license=info.get("license", ""),
        doi=info.get("doi", ""),
        facts=facts,
        sites=_site_rows(results, at_sites),
        ages=[_quartiles(at_sites[at_sites["site"] == site]["age"]) for site in results.sites],
        age_ends=_ends(table["age"]),
        confounding=[_confounding(each) for each in confounding(at_sites)],
        **{kind: [str(text) for text in results.config.get(kind, [])] for kind in NOTE_KINDS},
    )


def _site_rows(results: Results, at_sites: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for site in results.sites:
        mine = at_sites[at_sites["site"] == site]
        images = results.participants[results.participants["site"] == site]
        name = f"{site} (reference)" if site == results.reference_site else site
        row = {
            "Site": name,
            "Subjects": str(len(mine)),
            "Age, years": _ages(mine["age"]),
            "Female": _female(mine["sex"]),
        }
        held = _by_part(results.participants)
        counts = {part: n for part, n in _by_part(images).items() if held[part]}
        rows.append(row | {f"Images in {part}": str(n) for part, n in counts.items()})
    return pd.DataFrame(rows)


def _ages(ages: pd.Series) -> str:
    known = ages.dropna()
    if known.empty:
        return "unknown"
    text = f"{known.mean():.1f} ± {known.std(ddof=0):.1f} ({known.min():.0f}–{known.max():.0f})"
    missing = len(ages) - len(known)
    return text + (f", {missing} missing" if missing else "")


def _female(sexes: pd.Series) -> str:
    known = sexes.dropna()
    return f"{(known == 'F').mean():.0%}" if len(known) else "unknown"


def _by_part(table: pd.DataFrame) -> pd.Series:
    names = {"fit": "fit", "probe": "probe", "test": "test", "out": "left out"}
    shown = table["part"].map(names).fillna("folds")
    return shown.value_counts().reindex(PARTS, fill_value=0)


def _quartiles(ages: pd.Series) -> Ages | None:
    known = ages.dropna()
    return Ages(*known.quantile([0, 0.25, 0.5, 0.75, 1])) if len(known) else None


def _ends(ages: pd.Series) -> tuple[float, float]:
    if ages.isna().all():
        return 0.0, 1.0
    return float(np.floor(ages.min() / 10) * 10), float(np.ceil(ages.max() / 10 + 1e-9) * 10)


def _confounding(found: Confounding) -> tuple[str, str, str]:
    chance = f" (by chance {found.chance:.3f})" if np.isfinite(found.chance) else ""
    value = f"{found.value:.2f}{chance}" if np.isfinite(found.value) else NONE
    return found.name, value, found.meaning


# -- problems -----------------------------------------------------------------------------------


def problems(results: Results) -> pd.DataFrame | None:
    """Return the skipped and failed values with reasons, rows with the same reason joined."""
    bad: dict[tuple[str, str], dict[str, list[str]]] = {}
    for metric in results.metrics:
        for row, score in zip(results.rows, results.column(metric), strict=True):
            if score.status in ("skipped", "failed"):
                rows = bad.setdefault((score.status, score.reason), {})
                rows.setdefault(metric["label"], []).append(row.title)
    records = []
    for (status, reason), by_metric in sorted(bad.items()):
        joined: dict[str, list[str]] = {}
        for metric_label, titles in by_metric.items():
            everyone = len(titles) == len(results.rows)
            joined.setdefault("all" if everyone else ", ".join(titles), []).append(metric_label)
        said = reason or "no reason was given"
        for who, labels in joined.items():
            records.append([status, who, ", ".join(labels), said])
            said = "as above"
    columns = ["Status", "Methods", "Metrics", "Reason"]
    return pd.DataFrame(records, columns=columns) if records else None


# -- provenance ---------------------------------------------------------------------------------


def provenance(results: Results) -> list[tuple[str, str]]:
    """Return what the numbers depend on: versions, fingerprint of the data, seeds."""
    identity = {
        name.replace("_", " ").capitalize(): str(value)
        for name, value in results.config["identity"].items()
    }
    versions = results.environment.get("versions", {})
    system = " ".join(str(results.environment.get(k, "")) for k in ("system", "processor"))
    merged = [("Merged from", ", ".join(results.sources))] * bool(results.sources)
    return [*merged, *identity.items(), *versions.items(), ("System", system.strip() or NONE)]


def command(results: Results) -> str:
    """Return a command line with the settings of the run, quoted for a shell."""
    run, identity = results.config["run"], results.config["identity"]
    path = run["data"]["params"].get("path")
    parts = ["harmbench run"]
    if run["methods"]:
        parts.append(_flag("--methods", *(spec["name"] for spec in run["methods"])))
    parts.append(_flag("--data", path or run["data"]["name"]))
    parts.append(_flag("--controls", *(run["controls"] or ["none"])))
    wishes = sorted(run.get("weights", {}).items())
    if wishes:
        parts.append(_flag("--weights", *(f"{_base(k)}={_base(v)}" for k, v in wishes)))
    parts += [_flag("--preset", run["preset"]), _flag("--metrics", *run["metrics"])]
    parts.append(_flag("--reference-site", identity.get("reference_site", "")))
    parts.append(_flag("--seeds", run["seeds"]) + " " + _flag("--data-seed", run["data_seed"]))
    parts.append(_flag("--threads", run["threads"]) + " " + _flag("--device", run["device"]))
    return " \\\n  ".join(parts)


def _flag(name: str, *values: Any) -> str:
    """Return a flag with its values, each one word for a shell, on one line."""
    words = (" ".join(_base(str(value)).split()) for value in values)
    return " ".join([name, *map(shlex.quote, words)])


def settings(results: Results) -> str:
    """Return ``config.json`` as text, without the folders of the machine."""
    return json.dumps(_without_folders(results.config), indent=2, sort_keys=True)


def _without_folders(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_folders(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_folders(value) for value in content]
    return _base(content) if isinstance(content, str) else content


def _base(text: str) -> str:
    """Return the last part of an absolute path, any other text as it is."""
    path = PurePath(text)
    return path.name if path.is_absolute() else text


def lead(results: Results) -> str:
    """Return one sentence on methods, data and size of the run."""
    contenders = list(dict.fromkeys(row.label for row in results.rows if not row.control))
    controls = list(dict.fromkeys(row.label for row in results.rows if row.control))
    parts = [_count(contenders, "method"), _count(controls, "control")]
    tested = results.participants["participant_id"].iloc[results.tested].nunique()
    return (
        f"{' and '.join(p for p in parts if p)} on {results.config['dataset']['label']}: "
        f"{len(results.sites)} sites, {tested} test subjects, "
        f"{len(results.metrics)} metrics, preset {results.config['run']['preset']}."
    )


def _count(names: list[str], kind: str) -> str:
    if not names:
        return ""
    return f"{len(names)} {kind}{'s' if len(names) > 1 else ''} ({', '.join(names)})"
