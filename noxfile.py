"""Checks of the project. `nox -l` lists them; `nox -s tests` is the one to start with.

Sessions that need torch share one environment, so that it is installed once.
"""

from __future__ import annotations

import os

import nox

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "tests"]

SHARED = {"reuse_venv": True, "venv_location": ".nox/shared"}
# Where bytecode is not kept, every process compiles torch and matplotlib again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
PYTEST = ("pytest", "-n", "auto", "--dist", "loadfile")
SMOKE = ("harmbench", "run", "--methods", "combat", "--preset", "smoke")


@nox.session(**SHARED)
def tests(session: nox.Session) -> None:
    """Run the test suite."""
    session.install("-e", ".[test]")
    session.run(*PYTEST, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and who imports whom; needs no torch."""
    session.install("ruff>=0.9", "import-linter>=2.1")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports", env={"PYTHONPATH": "."})


@nox.session(**SHARED)
def types(session: nox.Session) -> None:
    """Check types."""
    session.install("-e", ".[test]", "mypy>=1.14")
    session.run("mypy")


@nox.session(**SHARED)
def smoke(session: nox.Session) -> None:
    """Run everything from data to report, small, and leave the report in results/smoke."""
    session.install("-e", ".[test]")
    session.run(*SMOKE, "--out", "results/smoke", *session.posargs)


@nox.session(**SHARED)
def controls(session: nox.Session) -> None:
    """Train CNN probes for every control and check what each metric says of it (minutes)."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "controls", *session.posargs)


@nox.session(**SHARED)
def benchmarks(session: nox.Session) -> None:
    """Measure speed and memory; prints ratios within one run."""
    session.install("-e", ".[test]")
    for name in session.posargs or ("phantom", "frechet", "probes", "coverage", "scaling"):
        session.run("python", f"benchmarks/{name}.py")


@nox.session(venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """Run the test suite with the oldest versions that pyproject.toml admits."""
    session.install("--resolution", "lowest-direct", "-e", ".[test]")
    session.run(*PYTEST, *session.posargs)
