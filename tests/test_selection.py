"""The weights that did best on the subjects left out are kept, through interruptions, too."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ddae.selection import BestOnValidation


def error_of_weight(model, batch, generator):
    """An error that is least where the weight is 3."""
    noise = torch.rand((), generator=generator)
    error = (model.weight.sum() - 3) ** 2 + noise
    return error, {"error": error}


def model_with(value):
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def test_the_best_weights_are_taken_back(tmp_path):
    data = {"image": torch.zeros(4, 1)}
    validation = BestOnValidation(error_of_weight, data, tmp_path / "new")
    for images, value in ((10, 1.0), (20, 2.9), (30, 5.0)):
        validation(model_with(value), images)
    model = model_with(5.0)
    validation.restore_best(model)
    assert model.weight.item() == np.float32(2.9)
    curve = validation.curve(np.array([5, 10, 25, 40]))
    assert np.isnan(curve[0])
    assert curve[1] == curve[3] > curve[2]
    again = BestOnValidation(error_of_weight, data, tmp_path / "new")
    assert again.errors == validation.errors
    again(model_with(4.0), 40)
    fresh = model_with(0.0)
    again.restore_best(fresh)
    assert fresh.weight.item() == np.float32(2.9)


def test_the_same_weights_have_the_same_error():
    validation = BestOnValidation(error_of_weight, {"image": torch.zeros(4, 1)}, None)
    validation(model_with(1.0), 1)
    validation(model_with(1.0), 2)
    assert validation.errors[1] == validation.errors[2]


def test_nothing_measured_changes_nothing():
    validation = BestOnValidation(error_of_weight, {"image": torch.zeros(4, 1)}, None)
    model = model_with(7.0)
    validation.restore_best(model)
    assert model.weight.item() == 7.0
