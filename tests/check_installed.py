"""Look at an installed harmbench, away from its sources; run by `nox -s wheel`, not by pytest."""

import hashlib
import importlib
import json
import pkgutil
import sysconfig
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

PACKAGES = ("harmbench", "baselines", "ddae", "reports")
LEAST = {"harmbench.methods": 15, "harmbench.datasets": 5, "harmbench.metrics": 35}
TEMPLATES = ("report.html.j2", "report.md.j2", "macros.html.j2", "report.css")


def modules() -> int:
    """Import every module, from the installation."""
    installed, count = sysconfig.get_path("purelib"), 0
    for name in PACKAGES:
        package = importlib.import_module(name)
        inside = pkgutil.walk_packages(package.__path__, f"{name}.")
        for module in [name, *(m.name for m in inside if not m.name.endswith("__main__"))]:
            file = importlib.import_module(module).__file__
            assert file and Path(file).is_relative_to(installed), f"{module} is {file}"
            count += 1
    return count


def entry_points() -> dict[str, int]:
    """Load every plug-in and the command."""
    points = distribution("harmbench").entry_points
    for point in points:
        point.load()
    counts = {group: len(points.select(group=group)) for group in LEAST}
    assert all(counts[group] >= least for group, least in LEAST.items()), counts
    return counts


def weights() -> list[str]:
    """Compare every shipped file of weights with the hash on its card."""
    found = []
    for package in ("baselines", "ddae"):
        for card in sorted(Path(str(files(package))).rglob("weights/**/card.json")):
            hashes = json.loads(card.read_text(encoding="utf-8"))["files"]
            assert any(name.endswith(".safetensors") for name in hashes), card
            for name, expected in hashes.items():
                content = (card.parent / name).read_bytes()
                assert hashlib.sha256(content).hexdigest() == expected, f"{card.parent / name}"
            assert (card.parent / "README.md").is_file(), card
            found.append(card.parent.name)
    assert {"ddae", "ddae-blind", "cvae", "gan"} <= set(found), found
    return found


def other_files() -> None:
    """Templates, notices, what the phantom is made of; and nothing that is not to be shipped."""
    for name in TEMPLATES:
        assert (files("reports") / "templates" / name).is_file(), name
    assert (files("harmbench") / "cli" / "templates" / "check.html.j2").is_file()
    assert (files("harmbench") / "py.typed").is_file()
    shipped = [str(path) for path in distribution("harmbench").files or []]
    assert {"LICENSE", "NOTICE"} <= {Path(path).name for path in shipped}
    strangers = ("tests/", "benchmarks/", "docs/", "reports/reference/")
    assert not [path for path in shipped if path.startswith(strangers) or "checkpoints" in path]
    from harmbench.data.phantom import Phantom

    assert len(Phantom().fingerprint) > 0


if __name__ == "__main__":
    told = modules(), entry_points(), weights()
    other_files()
    print(*told, sep="\n")
