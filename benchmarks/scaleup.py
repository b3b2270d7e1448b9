"""Time and memory of thousands of 128 x 128 slices: python benchmarks/scaleup.py [--sizes N ...].

Each size goes through ComBat and every metric that trains no network, by the suite's own run, in a
process of its own. The cohort is written first, in chunks, to an archive that the run maps: smooth
random heads with an age effect, seen by eight sites of unlike gain and shading. Peaks are those of
the whole process, with the pages of mapped files that it holds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from tabulate import tabulate

SIZES = (1000, 4000, 16_000, 40_000)
SHAPE = (128, 128)
SITES = 8
CHUNK = 500
METRICS = (
    "distance_pcc",
    "distance_spearman",
    "fd_pooled",
    "fd_reference",
    "kd_reference",
    "ilisi",
    "mmd",
    "site_reference_vs_rest",
)
GIB = 2**20  # of the kernel's kB


def make_cohort(path: Path, n: int, shape: tuple[int, int] = SHAPE) -> None:
    """Write an archive of n people, one slice each; never more than a chunk is in memory."""
    rng = np.random.default_rng(n)
    site = np.arange(n) % SITES
    age = rng.uniform(20, 70, n) + 2 * site
    table = {
        "participant_id": np.array([f"p{i:06d}" for i in range(n)]),
        "site": np.array([f"site-{s}" for s in site]),
        "age": age.round(1),
        "sex": rng.choice(["F", "M"], n),
        "preprocessed": np.array(True),
    }
    head = sum(axis**2 for axis in np.meshgrid(*[np.linspace(-1.2, 1.2, s) for s in shape])) < 1
    head = head.reshape(shape)
    gain = 1 + 0.2 * rng.standard_normal(SITES)
    shading = [gaussian_filter(rng.standard_normal(shape), 24) * 8 for _ in range(SITES)]

    def images() -> Iterator[np.ndarray]:
        for start in range(0, n, CHUNK):
            rows = slice(start, min(start + CHUNK, n))
            noise = rng.standard_normal((len(age[rows]), *shape), dtype=np.float32)
            smooth = gaussian_filter(noise, (0, 6, 6)) * 2 + 0.02 * noise
            tissue = 0.6 - 0.003 * (age[rows, None, None] - 20) + smooth
            field = np.stack([gain[s] * (1 + shading[s]) for s in site[rows]])
            yield np.where(head, tissue * field, 0).astype(np.float32)

    def masks() -> Iterator[np.ndarray]:
        for start in range(0, n, CHUNK):
            yield np.broadcast_to(head, (min(CHUNK, n - start), *shape))

    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in table.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)
        write_chunks(archive, "images", (n, *shape), np.float32, images())
        write_chunks(archive, "mask", (n, *shape), np.bool_, masks())


def write_chunks(
    archive: zipfile.ZipFile, name: str, shape: tuple, dtype: type, chunks: Iterator[np.ndarray]
) -> None:
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk).data)


def run_once(data: str, out: str, metrics: tuple[str, ...]) -> None:
    from harmbench.config import resolve
    from harmbench.engine.run import run

    config = resolve(
        data=data, methods=["combat"], controls=["none"], metrics=list(metrics), threads=1
    )
    run(config, Path(out))


def watch(worker: BaseProcess) -> float:
    """Return the peak of a process in GiB; stages let the kernel's own figure begin anew."""
    status, peak = Path(f"/proc/{worker.pid}/status"), 0
    while worker.is_alive():
        try:
            lines = status.read_text(encoding="ascii").splitlines()
        except OSError:
            break
        peak = max([peak, *(int(x.split()[1]) for x in lines if x.startswith("VmHWM"))])
        worker.join(0.02)
    worker.join()
    return peak / GIB


def processor_seconds() -> float:
    """Return what ended children have spent; on a busy machine it says more than a clock."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def measure(n: int, room: Path, metrics: tuple[str, ...]) -> tuple[dict[str, float], pd.DataFrame]:
    """Make a cohort, run it in a process of its own, and return the whole and the stages."""
    data, out = room / f"slices-{n}.npz", room / f"run-{n}"
    make_cohort(data, n)
    print(f"{n} slices ...", flush=True)
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=run_once, args=(str(data), str(out), metrics))
    start, spent = time.perf_counter(), processor_seconds()
    worker.start()
    peak = watch(worker)
    seconds, spent = time.perf_counter() - start, processor_seconds() - spent
    if worker.exitcode:
        raise SystemExit(f"{n} slices: the run ended with {worker.exitcode}")
    stages = pd.read_csv(out / "timing.csv")
    peak = max(peak, stages["peak_mib"].max() / 1024)
    kept = pd.read_csv(out / "scores.csv")
    failed = kept[kept["status"] == "failed"]
    if len(failed):
        raise SystemExit(f"{n} slices: {failed.iloc[0]['metric']}: {failed.iloc[0]['reason']}")
    disk = sum(f.stat().st_size for f in out.rglob("*") if f.is_file()) / 2**30
    data.unlink()
    shutil.rmtree(out)
    times = {"whole run, s": seconds, "processor, s": spent}
    return {"slices": n, **times, "peak, GiB": peak, "run folder, GiB": disk}, stages


def exponents(rows: pd.DataFrame) -> pd.Series:
    """Return the slope of each column over the number of slices, both logarithmic."""
    size = np.log(rows["slices"].to_numpy(float))
    others = rows.drop(columns="slices")
    return others.apply(lambda y: np.polyfit(size, np.log(np.maximum(y, 1e-3)), 1)[0])


def show(title: str, rows: pd.DataFrame) -> None:
    print(f"\n{title}")
    table = rows.astype({"slices": int}).astype({"slices": str})
    if len(rows) > 1:
        table.loc[len(table)] = {"slices": "exponent", **exponents(rows)}
    print(tabulate(table, headers="keys", showindex=False, tablefmt="github", floatfmt=".2f"))


def by_stage(found: dict[int, pd.DataFrame], column: str, method: str) -> pd.DataFrame:
    """Return one figure of every stage of one method, a row a size."""
    rows = [
        {"slices": n, **stages[stages["label"] == method].set_index("stage")[column].to_dict()}
        for n, stages in found.items()
    ]
    return pd.DataFrame(rows).fillna(0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--metrics", nargs="+", default=METRICS)
    parser.add_argument("--room", type=Path, help="where to write (40,000 slices: 12 GB)")
    args = parser.parse_args()
    wholes, found = [], {}
    with tempfile.TemporaryDirectory(dir=args.room) as room:
        for n in args.sizes:
            whole, found[n] = measure(n, Path(room), tuple(args.metrics))
            wholes.append(whole)
            print({k: round(v, 2) for k, v in whole.items()}, flush=True)
    show("whole run, with the anchors", pd.DataFrame(wholes))
    for column, title in (("seconds", "seconds"), ("peak_mib", "peak, MiB")):
        show(f"ComBat: {title}", by_stage(found, column, "combat"))


if __name__ == "__main__":
    main()
