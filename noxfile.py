"""Checks of the project. `nox -l` lists them; `nox -s tests` is the one to start with.

What needs torch shares one environment, made by uv, so that five gigabytes are installed once.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nox
from uv import find_uv_bin

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "tests"]

# Where bytecode is not kept, every process compiles torch and matplotlib again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

SHARED = Path(".nox/shared").resolve()
PYTEST = ("pytest", "-n", "auto", "--dist", "loadfile")
JUDGED = ("combat", "ddae", "ddae-blind", "cvae", "gan")
BENCHMARKS = ("phantom", "frechet", "networks", "probes", "coverage", "scaling")


def run_shared(session: nox.Session, program: str, *args: str) -> None:
    """Run a program of the shared environment, which is made or brought up to date first."""
    uv = find_uv_bin()
    if not (SHARED / "pyvenv.cfg").exists():
        session.run(uv, "venv", "--quiet", "--python", sys.executable, str(SHARED), external=True)
    install = ("pip", "install", "--quiet", "--python", str(SHARED), "-e", ".[test]", "mypy>=1.14")
    session.run(uv, *install, external=True)
    programs = SHARED / ("Scripts" if sys.platform == "win32" else "bin")
    # Tests start programs of their own, which must be this environment's.
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    session.run(str(programs / program), *args, external=True, env={"PATH": path})


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run the test suite."""
    run_shared(session, *PYTEST, *session.posargs)


@nox.session(name="tests-313", python="3.13")
def tests_313(session: nox.Session) -> None:
    """Run the test suite on Python 3.13, beside two other packages for harmonization.

    Nox skips it, and says so, where there is no Python 3.13.
    """
    session.install("-e", ".[test]", "UniHarmony", "DiagnoseHarmonisation")
    session.run(*PYTEST, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and who imports whom; needs no torch."""
    session.install("ruff>=0.9", "import-linter>=2.1")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports", env={"PYTHONPATH": "."})


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Check types."""
    run_shared(session, "mypy", *session.posargs)


@nox.session(venv_backend="none")
def smoke(session: nox.Session) -> None:
    """Run everything from data to report, small, and leave the report in results/smoke."""
    run = ("run", "--methods", "combat", "--preset", "smoke", "--out", "results/smoke")
    run_shared(session, "harmbench", *run, *session.posargs)


@nox.session(venv_backend="none")
def controls(session: nox.Session) -> None:
    """Train CNN probes for every control and check what each metric says of it (minutes)."""
    run_shared(session, "pytest", "-m", "controls", *session.posargs)


@nox.session(venv_backend="none")
def faults(session: nox.Session) -> None:
    """Kill runs at many moments and read 100,000 mutated inputs (half an hour)."""
    run_shared(session, "pytest", "-m", "faults", *session.posargs)


@nox.session(venv_backend="none")
def benchmarks(session: nox.Session) -> None:
    """Measure speed and memory; prints ratios within one run."""
    for name in session.posargs or BENCHMARKS:
        run_shared(session, "python", f"benchmarks/{name}.py")


@nox.session
def lowest(session: nox.Session) -> None:
    """Run the test suite with the oldest versions that pyproject.toml admits."""
    session.install("--resolution", "lowest-direct", "-e", ".[test]")
    session.run(*PYTEST, *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel, install it without the sources, look at it and run it (minutes)."""
    source, room = Path.cwd(), Path(session.create_tmp()).resolve()
    for old in room.glob("*.whl"):
        old.unlink()
    session.run(find_uv_bin(), "build", "--quiet", "--wheel", "--out-dir", str(room), external=True)
    (built,) = room.glob("*.whl")
    session.install("--reinstall-package", "harmbench", str(built))
    session.chdir(room)
    # Isolated: neither the folder nor the script's own is searched for modules.
    session.run("python", "-I", str(source / "tests/check_installed.py"))
    # The folder of an earlier check would be taken up again.
    out = room / "smoke"
    shutil.rmtree(out, ignore_errors=True)
    run = ("run", "--methods", "combat", "--preset", "smoke", "--out", str(out))
    session.run("harmbench", *run, *session.posargs)
    assert (out / "report.html").is_file()


@nox.session(venv_backend="none")
def licenses(session: nox.Session) -> None:
    """Write docs/licenses.md from what the installed packages say about themselves."""
    run_shared(session, "python", "benchmarks/licenses.py")


@nox.session(venv_backend="none")
def reference(session: nox.Session) -> None:
    """Make reports/reference anew: all methods, all controls, the full protocol (hours)."""
    run, place = Path("results/reference"), Path("reports/reference")
    judged = ("--methods", *JUDGED, "--controls", "all", "--protocol", "full")
    run_shared(session, "harmbench", "run", *judged, "--out", str(run), *session.posargs)
    run_shared(session, "harmbench", "report", str(run), "--out", str(place))
    for name in ("config.json", "environment.json", "scores.csv", "timing.csv"):
        shutil.copy(run / name, place / name)
    costs = "import pandas as pd; from harmbench.engine.costs import REFERENCE, READ, medians; "
    costs += f"medians(pd.read_csv('{place / 'timing.csv'}', **READ)).to_csv(REFERENCE)"
    run_shared(session, "python", "-c", costs)
    # The large PNG files come anew from `harmbench report`; in the repository they would weigh.
    shutil.rmtree(place / "figures" / "print")


@nox.session(venv_backend="none")
def sensitivity(session: nox.Session) -> None:
    """Make reports/reference/sensitivity anew: the phantom's knobs, one at a time (an hour)."""
    run, place = Path("results/sensitivity"), Path("reports/reference/sensitivity")
    run_shared(session, "python", "benchmarks/sensitivity.py", "--out", str(run), *session.posargs)
    place.mkdir(parents=True, exist_ok=True)
    for name in ("sensitivity.csv", "sensitivity.md", "sensitivity.png"):
        shutil.copy(run / name, place / name)
