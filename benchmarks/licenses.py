"""Write docs/licenses.md: every package that an installation brings, with version and license."""

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).parents[1] / "docs" / "licenses.md"

KNOWN = {
    "cuda-toolkit": "NVIDIA Proprietary Software",  # an empty package that names others
    "contourpy": "BSD-3-Clause",
    "cycler": "BSD-3-Clause",
    "jinja2": "BSD-3-Clause",
    "kiwisolver": "BSD-3-Clause",
    "mpmath": "BSD-3-Clause",
    "matplotlib": "PSF-2.0-like (matplotlib)",
    "numpy": "BSD-3-Clause",
    "pandas": "BSD-3-Clause",
    "patsy": "BSD-2-Clause",
    "pytorch-fid": "Apache-2.0",
    "safetensors": "Apache-2.0",
    "scikit-image": "BSD-3-Clause",
    "scipy": "BSD-3-Clause",
    "seaborn": "BSD-3-Clause",
    "sympy": "BSD-3-Clause",
    "torchvision": "BSD-3-Clause",
}
"""Licenses of packages whose metadata hold a text or a vague name; looked up by hand."""

REMARKS = {
    r"proprietary|nvidia": "proprietary, no open source: comes with torch for NVIDIA GPUs",
    r"non-?commercial|\bNC\b": "**non-commercial**",
    r"\b(?<!L)A?GPL|General Public": "**strong copyleft**",
    r"LGPL|MPL|EPL|Mozilla": "weak copyleft: changes to its own files stay under its license",
}


def license_of(name: str) -> str:
    """Return the license that a package states, "not stated" where it does not."""
    about = distribution(name).metadata
    stated = about.get("License-Expression") or KNOWN.get(canonicalize_name(name))
    if stated:
        return stated
    text = (about.get("License") or "").strip()
    if text and "\n" not in text and len(text) < 40:
        return text
    found = [c.split(" :: ")[-1] for c in about.get_all("Classifier") or [] if "License ::" in c]
    return ", ".join(found) or "not stated"


def needs(name: str, extras: frozenset[str]) -> list[Requirement]:
    """Return what a package with these extras requires on this machine."""
    found = [Requirement(text) for text in distribution(name).requires or []]
    return [
        r
        for r in found
        if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras | {""})
    ]


def installed(stated: list[str]) -> dict[str, bool]:
    """Return all packages that these requirements bring, and whether they are among them."""
    packages: dict[str, bool] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = [(Requirement(text), True) for text in stated]
    while queue:
        requirement, direct = queue.pop(0)
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            distribution(name)
        except PackageNotFoundError:
            sys.exit(f"{name} is needed but not installed; install harmbench with its dependencies")
        packages[name] = packages.get(name, False) or direct
        queue += [(r, False) for r in needs(name, extras)]
    return packages


def remark(text: str) -> str:
    """Return what to know about a license, most often nothing."""
    return next((said for pattern, said in REMARKS.items() if re.search(pattern, text, re.I)), "")


def page(packages: dict[str, bool]) -> str:
    """Return the whole page."""
    lines = [
        "# Licenses of the packages that harmbench needs",
        "",
        "Made by `nox -s licenses` from what the packages say about themselves, on Linux with "
        "Python " + ".".join(map(str, sys.version_info[:2])) + "; versions are those of that "
        "installation. None of them is part of this package. Data and weights that it downloads or "
        "simulates from have their own: [NOTICE](../NOTICE), `harmbench datasets`.",
    ]
    for title, wanted in (("Direct", True), ("Through those", False)):
        lines += ["", f"## {title}", "", "| package | version | license | remark |"]
        lines += ["| --- | --- | --- | --- |"]
        for name in sorted(name for name, direct in packages.items() if direct is wanted):
            stated = license_of(name)
            version = distribution(name).version
            lines.append(
                f"| {name} | {version} | {stated} | {remark(stated)} |".replace("  |", " |")
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    project = tomllib.loads((PAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    packages = installed(project["project"]["dependencies"])
    PAGE.write_text(page(packages), encoding="utf-8")
    flagged = [n for n in packages if "**" in remark(license_of(n)) or "not st" in license_of(n)]
    print(f"{PAGE.name}: {len(packages)} packages; to look at: {', '.join(flagged) or 'none'}")
