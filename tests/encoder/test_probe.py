"""What features know: all, when classes lie apart; nothing, when labels are drawn by lot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from edgecache.encoder.probe import neighbour_accuracy, ridge_accuracy
from torch import Tensor

Probe = Callable[[Tensor, Tensor, Tensor, Tensor], float]


@pytest.mark.parametrize("probe", [ridge_accuracy, neighbour_accuracy])
def test_classes_that_lie_apart_are_told_apart(probe: Probe) -> None:
    torch.manual_seed(0)
    labels = torch.arange(400) % 4
    features = 5 * torch.eye(8)[labels] + torch.randn(400, 8)
    assert probe(features[:300], labels[:300], features[300:], labels[300:]) > 0.95


@pytest.mark.parametrize("probe", [ridge_accuracy, neighbour_accuracy])
def test_labels_drawn_by_lot_are_not_learnt(probe: Probe) -> None:
    torch.manual_seed(0)
    labels, features = torch.randint(4, (800,)), torch.randn(800, 8)
    assert 0.1 < probe(features[:400], labels[:400], features[400:], labels[400:]) < 0.4
