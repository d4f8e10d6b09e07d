"""How much do features know? Two ways to ask without training a network: a linear probe and the nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 1e-2  # times the number of images; inputs have variance 1
NEIGHBOURS = 20
QUERIES_AT_ONCE = 1000  # × 50,000 similarities are 200 MB


def ridge_accuracy(known: Tensor, known_labels: Tensor, asked: Tensor, asked_labels: Tensor) -> float:
    """The share of `asked` (images, dim) that a linear map fitted on `known` (images, dim) puts in the right class."""
    return _share_right(ridge_fit(known, known_labels)(asked).argmax(dim=1), asked_labels)


def ridge_fit(known: Tensor, known_labels: Tensor) -> Callable[[Tensor], Tensor]:
    """A linear map from inputs (images, dim) to a score for each class, fitted on `known`."""
    mean, std = known.mean(dim=0), known.std(dim=0) + 1e-6
    inputs = _with_one((known - mean) / std).double()  # (images, dim + 1)
    targets = F.one_hot(known_labels).double()  # (images, classes)
    penalty = RIDGE * len(inputs) * torch.eye(inputs.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ targets)  # (dim + 1, classes)
    return lambda asked: _with_one((asked - mean) / std).double() @ weights


def neighbour_accuracy(known: Tensor, known_labels: Tensor, asked: Tensor, asked_labels: Tensor) -> float:
    """The share of `asked` whose NEIGHBOURS most similar `known`, by cosine, mostly have the right class."""
    known, asked = F.normalize(known), F.normalize(asked)
    votes = []
    for queries in torch.split(asked, QUERIES_AT_ONCE):
        nearest = (queries @ known.T).topk(NEIGHBOURS).indices  # (queries, NEIGHBOURS)
        votes.append(F.one_hot(known_labels[nearest]).sum(dim=1).argmax(dim=1))
    return _share_right(torch.cat(votes), asked_labels)


def _share_right(answers: Tensor, labels: Tensor) -> float:
    return float((answers == labels).double().mean())


def _with_one(inputs: Tensor) -> Tensor:
    return torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
