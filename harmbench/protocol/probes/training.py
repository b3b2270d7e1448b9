"""CNN probes as products: small networks that predict site, age or sex from harmonized images.

All tasks and methods use the same kind of network (`harmbench.protocol.probes.network`) and the
same budget. Each product ``probe.<task>`` holds:

``predicted`` (seeds, n_test) or (seeds, n_test, classes)
    Years, or probabilities, of every test row, in order.
``classes`` (classes,)
    Names of the classes; empty for the age.
``validation_loss`` (seeds, checks), ``training_loss`` (seeds, points), ``images`` (points,)
    Losses of the standardized age or of the balanced classes.
``image_mean`` (height, width), ``image_scale``, ``label_mean``, ``label_scale`` ()
    Standardization, from the whole probe part; 0 and 1 for the label of a class.
``net.<name>``
    The networks' weights, for `apply_probe`.
``validation`` (networks,)
    Balanced accuracy on each network's validation subjects, or 1 minus the mean absolute error
    divided by that of the median age.
``fold`` (n_test,)
    If the data are cross-fitted: the fold of every test row. For each fold and seed, in this
    order, there is a network that was trained on the probe rows for this fold. ``predicted`` holds,
    for each seed, the prediction of the network that has not seen the subject.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs
from harmbench.contracts.product import Product, ProductContext, ProductUnavailable
from harmbench.errors import HarmbenchError, unknown
from harmbench.seeding import seed_from

if TYPE_CHECKING:
    from harmbench.protocol.probes.network import ProbeConfig, ProbeData

Task = Literal["site", "age", "sex"]
TASKS: tuple[Task, ...] = get_args(Task)
MIN_N = 100
MIN_PER_CLASS = 5
PROBE_THREADS = 1
"""A second thread saves a third of the time on an idle machine, but takes ten times as long on a
busy one, because the networks are small. With one thread the result does not depend on their
number."""
MIN_SCALE = 1e-3
"""Smallest standard deviation for the standardization of images, as a share of their root mean
square, so that rounding errors are not amplified."""


def probe_config(values: Mapping[str, Any]) -> ProbeConfig:
    """Return the default budget with some fields replaced; unknown names raise an error."""
    from harmbench.protocol.probes.network import ProbeConfig

    known = [field.name for field in fields(ProbeConfig)]
    for name in values:
        if name not in known:
            raise unknown("probe setting", name, known)
    return ProbeConfig(**values)


def labeled(cohort: Cohort, task: Task) -> NDArray[np.bool_]:
    """Return which rows have a label for the task."""
    return cohort.participants[task].notna().to_numpy()


def rounds(inputs: MetricInputs, name: str) -> Iterator[tuple[Cohort, NDArray[np.intp]]]:
    """Yield training cohorts with the test rows that a probe trained on them predicts.

    Parameters
    ----------
    inputs : MetricInputs
    name : {"raw.probe", "harmonized.probe"}

    Yields
    ------
    training : Cohort
        The probe part; if the data are cross-fitted, that of one fold.
    rows : ndarray of int
        All test rows, or those of the fold.
    """
    training = inputs.cohort(name)
    if inputs.folds is None:
        yield training, np.arange(len(inputs.cohort(name.replace("probe", "test"))))
        return
    for fold in np.unique(inputs.folds):
        yield training.subset(inputs.probe_folds == fold), np.flatnonzero(inputs.folds == fold)


def make_probe(task: Task, inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Train the probes of one task on the probe part and apply them to the test part.

    See the module for the arrays.

    Raises
    ------
    ProductUnavailable
        If there is only one class or age, if there are too few labels, or for other images than
        slices.
    """
    from harmbench.protocol.probes.network import train_probe
    from harmbench.training.process_state import threads

    training, test = inputs.cohort("harmonized.probe"), inputs.cohort("harmonized.test")
    if len(training.shape) != 2 or min(training.shape) < 16:
        raise ProductUnavailable(
            f"CNN probes read slices of at least 16 x 16 pixels, not images of {training.shape}"
        )
    config = probe_config(context.probe)
    constants = _standardization(training, task)
    if inputs.folds is None:
        seeds, folds = list(context.seeds), {}
        excluded = [np.zeros(len(training), dtype=bool)] * len(seeds)
    else:
        names, fold = np.unique(inputs.folds, return_inverse=True)
        seeds = [seed_from("fold", name, seed) for name in names for seed in context.seeds]
        excluded = [inputs.probe_folds != name for name in names for _ in context.seeds]
        folds = {"fold": fold}
    data = _data(training, task, constants, seeds, excluded, config)
    with threads(PROBE_THREADS):
        trained = train_probe(
            data, seeds, config, context.device, context.progress, f"{task} probe"
        )
        arrays = {**constants, **trained, **folds, "validation": _validation(trained, data)}
        return arrays | {"predicted": apply_probe(arrays, task, test.images, context.device)}


def apply_probe(
    arrays: Mapping[str, NDArray],
    task: Task,
    images: NDArray[np.float32],
    device: str = "cpu",
) -> NDArray[np.float32]:
    """Apply the trained probes of a product ``probe.<task>`` to other images.

    Parameters
    ----------
    arrays : mapping
        The product, of this method or of another.
    images : ndarray of float32, shape (n, height, width)
        With the size of the training images. If the probes are cross-validated, image i must be of
        scored row i: the networks that have not seen its subject are applied to it.

    Returns
    -------
    ndarray of float32, shape (seeds, n) or (seeds, n, classes)
        Years, or probabilities of ``arrays["classes"]``.
    """
    import torch

    from harmbench.protocol.probes.network import predict

    output = predict(arrays, _standardized(images, arrays), device)
    output = of_own_fold(arrays, output)
    if task == "age":
        years = output[..., 0] * arrays["label_scale"] + arrays["label_mean"]
        return years.astype(np.float32)
    return torch.from_numpy(output).softmax(-1).numpy()


def of_own_fold(arrays: Mapping[str, NDArray], output: NDArray) -> NDArray:
    """Return the outputs (probes, n, out) of the probes for the fold of each row: (seeds, n, out).

    The probes are in the order of folds and seeds. Without folds nothing changes.
    """
    if "fold" not in arrays:
        return output
    by_fold = output.reshape(int(arrays["fold"].max()) + 1, -1, *output.shape[1:])
    return by_fold[arrays["fold"], :, np.arange(output.shape[1])].swapaxes(0, 1)


def predicted_classes(arrays: Mapping[str, NDArray]) -> NDArray:
    """Return the name of the most probable class of every test row, shape (seeds, n)."""
    return arrays["classes"][arrays["predicted"].argmax(-1)]


def underfit_note(arrays: Mapping[str, NDArray]) -> str:
    """Return ``"underfit"`` if the training loss of a network has not decreased, else ``""``."""
    if "training_loss" not in arrays:
        return ""
    loss = arrays["training_loss"]
    tenth = max(1, loss.shape[1] // 10)
    decreased = loss[:, -tenth:].mean(1) < loss[:, :tenth].mean(1)
    return "" if decreased.all() else "underfit"


def _standardization(cohort: Cohort, task: Task) -> dict[str, NDArray]:
    """Return the constants for the standardization of images and labels, and the classes."""
    mean = cohort.images.mean(0)
    variance = float(cohort.images.var(0).mean())
    level = np.sqrt(variance + float(np.square(mean, dtype=np.float64).mean()))
    scale = max(np.sqrt(variance), MIN_SCALE * level) or 1.0
    constants = {
        "image_mean": mean.astype(np.float32),
        "image_scale": np.float32(scale),
        "label_mean": np.array(0.0),
        "label_scale": np.array(1.0),
        "classes": np.array([], dtype="<U1"),
    }
    labels = cohort.participants[task][labeled(cohort, task)].to_numpy()
    if task == "age":
        constants |= {"label_mean": labels.mean(), "label_scale": labels.std()}
        if len(labels) < MIN_PER_CLASS or not constants["label_scale"] > 0:
            raise ProductUnavailable(f"{len(labels)} ages of the probe part do not differ")
    else:
        constants["classes"] = learnable_classes(labels.astype(str), task)
    return {name: np.asarray(value) for name, value in constants.items()}


def learnable_classes(labels: NDArray, what: str, least: int = MIN_PER_CLASS) -> NDArray:
    """Return the different labels of the probe part, sorted.

    Raises
    ------
    ProductUnavailable
        If there are fewer than two, or one has fewer than `least` scans.
    """
    names, counts = np.unique(labels, return_counts=True)
    if len(names) < 2 or counts.min() < least:
        held = ", ".join(f"{n} of {name}" for n, name in zip(counts, names, strict=True))
        raise ProductUnavailable(
            f"the images for training probes are {held or 'without ' + what}; a probe needs two "
            f"values of {what} with {least} scans each"
        )
    return names


def accuracy(truth: NDArray, predicted: NDArray) -> float:
    """Return the balanced accuracy of predicted classes; 0 without rows."""
    hits = pd.Series(truth == predicted, dtype=float)
    return float(hits.groupby(truth).mean().mean()) if len(truth) else 0.0


def skill(truth: NDArray, predicted: NDArray) -> float:
    """Return 1 minus the mean absolute error divided by that of the median; 0 if undefined."""
    trivial = np.abs(truth - np.median(truth)).mean() if len(truth) else 0.0
    return float(1 - np.abs(truth - predicted).mean() / trivial) if trivial > 0 else 0.0


def validation_rows(
    training: Cohort, seed: int, share: float, excluded: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Return the rows on which all probes of a seed are validated, none of them excluded."""
    from harmbench.data.splits import validation_keys

    kept = training if excluded is None else training.subset(~excluded)
    held_out = set(validation_keys(kept, seed, share))
    return np.array([key in held_out for key in training.keys])


def _standardized(
    images: NDArray[np.float32], constants: Mapping[str, NDArray]
) -> NDArray[np.float32]:
    expected = constants["image_mean"].shape
    if images.shape[1:] != expected:
        raise HarmbenchError(f"the probe reads images of {expected}, not {images.shape[1:]}")
    return (images - constants["image_mean"]) / constants["image_scale"]


def _data(
    cohort: Cohort,
    task: Task,
    constants: Mapping[str, NDArray],
    seeds: Sequence[int],
    excluded: Sequence[NDArray[np.bool_]],
    config: ProbeConfig,
) -> ProbeData:
    """Return standardized images and labels, with each network's training and validation rows."""
    from harmbench.protocol.probes.network import ProbeData

    known = labeled(cohort, task)
    cohort, excluded = cohort.subset(known), [rows[known] for rows in excluded]
    column = cohort.column(task)
    if task == "age":
        ages = column.astype(np.float64)
        labels = ((ages - constants["label_mean"]) / constants["label_scale"]).astype(np.float32)
    else:
        labels = np.searchsorted(constants["classes"], column.astype(str)).astype(np.int64)
        for rows in excluded:
            learnable_classes(column[~rows].astype(str), task)
    held_out = [
        validation_rows(cohort, seed, config.validation, rows)
        for seed, rows in zip(seeds, excluded, strict=True)
    ]
    pairs = list(zip(held_out, excluded, strict=True))
    train = [np.flatnonzero(~(held | out)) for held, out in pairs]
    validation = [np.flatnonzero(held) for held in held_out]
    images = _standardized(cohort.images, constants)
    return ProbeData(images, labels, len(constants["classes"]), train, validation)


def _validation(trained: Mapping[str, NDArray], data: ProbeData) -> NDArray[np.float64]:
    """Return each network's balanced accuracy, or skill, on its validation rows."""
    from harmbench.protocol.probes.network import predict

    outputs = predict(trained, data.images)
    pairs = zip(outputs, data.validation, strict=True)
    if data.n_classes:
        return np.array([accuracy(data.labels[i], out[i].argmax(-1)) for out, i in pairs])
    return np.array([skill(data.labels[i], out[i, 0]) for out, i in pairs])


PRODUCTS = tuple(
    Product(
        name=f"probe.{task}",
        needs=("harmonized.probe", "harmonized.test"),
        make=partial(make_probe, task),
        min_n=MIN_N,
        images=True,
        reads=("seeds", "device", "probe"),
        summary=f"CNNs that predict {task}, trained on the harmonized probe part: `predicted`, "
        "`classes`, losses and weights of every probe seed",
    )
    for task in TASKS
)
