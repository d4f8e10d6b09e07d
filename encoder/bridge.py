"""The bridge: from a reduced model's tokens to the plain model's, a linear map of each token and of the whole picture.

Distillation of a single layer in closed form: seconds on a few hundred images, instead of hours. Tokens half-way up do
not know yet what the picture as a whole shows, their mean and spread (each channel's deviation) do to some degree.
But a picture is one example, where its tokens are hundreds: how much it may say, and how far both are held back, is
decided by cross-validation, without another pass over the images, since a ridge regression's error follows from the
sums that it is solved from.

What follows from a bridge, such as who may leave early with what it makes, is to be judged on images that it was not
fitted on: on its own it looks truer than it is, the more so the fewer there are. `BridgeFit.held_out` gives every image
such features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

FOLDS = 4
RIDGES = (1e-3, 1e-2, 0.1, 1.0, 10.0)
"""Of the mean square of a token's values.

Large ones for where little is lost, as by merging: there a bridge that does more than little makes features worse. A
ViT-S/14's with 15 tokens merged in each block have a cosine of 0.9915 without a bridge, with 1e-3 it is 0.9896, with 10
it is 0.9917 (96 images fitted on, 75 others)."""
NOTHING = 1e6
WHOLE_RIDGES = (NOTHING, 0.1, 1.0, 10.0, 100.0)
"""For the whole picture, as many times that; with the first it says nothing."""
VARIANCE_MIN = 1e-6
_CHUNK = 8  # images whose products are summed in float32


class Bridge(nn.Module):
    """Tokens (batch, tokens, dim) to as many; changes nothing until it is fitted."""

    def __init__(self, dim: int, *, knows_whole: bool = True) -> None:
        super().__init__()
        self.own = nn.Linear(dim, dim)
        self.whole = nn.Linear(2 * dim, dim, bias=False) if knows_whole else None
        with torch.no_grad():
            self.own.weight.copy_(torch.eye(dim))
            self.own.bias.zero_()
            if self.whole is not None:
                self.whole.weight.zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        bridged: Tensor = self.own(tokens)
        return bridged if self.whole is None else bridged + self.whole(whole_of(tokens))

    def mean(self, tokens: Tensor) -> Tensor:
        """The mean of what `tokens` become, (batch, 1, dim), without making them: it is linear in each."""
        bridged: Tensor = self.own(tokens.mean(dim=1, keepdim=True))
        return bridged if self.whole is None else bridged + self.whole(whole_of(tokens))


def whole_of(tokens: Tensor) -> Tensor:
    """What tokens (batch, tokens, dim) say of the picture as a whole: their mean and spread, (batch, 1, 2 dim)."""
    mean = tokens.mean(dim=1, keepdim=True)
    variance = (tokens - mean).square().mean(dim=1, keepdim=True)
    return torch.cat([mean, (variance + VARIANCE_MIN).sqrt()], dim=-1)


def fit_bridge(made: Tensor, wanted: Tensor) -> Bridge:
    """The bridge that brings `made` (images, tokens, dim) nearest to `wanted`."""
    return BridgeFit(made, wanted).bridge()


class BridgeFit:
    """Ridge regression of what `made` (images, tokens, dim) lacks of `wanted`, shrunk towards changing nothing."""

    def __init__(self, made: Tensor, wanted: Tensor) -> None:
        self._made = made
        count = min(FOLDS, len(made))
        self._folds = [slice(start, None, count) for start in range(count)]
        self._sums = [_Sums.of(made[fold], wanted[fold]) for fold in self._folds]
        self._all = sum(self._sums[1:], self._sums[0])
        self._ridge, self._whole_ridge = RIDGES[0], NOTHING
        if count > 1:
            self._whole_ridge = min(WHOLE_RIDGES, key=lambda times: self._error(self._ridge, times))
            self._ridge = min(RIDGES, key=lambda ridge: self._error(ridge, self._whole_ridge))

    def bridge(self) -> Bridge:
        """Fitted on all images."""
        return self._bridge(self._all)

    @torch.inference_mode()
    def held_out(self) -> Tensor:
        """What each image's tokens become over a bridge that was fitted on others; one image alone stays as it is."""
        if len(self._folds) < 2:
            return self._made
        bridged = torch.empty_like(self._made)
        for fold, own in zip(self._folds, self._sums, strict=True):
            bridged[fold] = self._bridge(self._all - own)(self._made[fold])
        return bridged

    def _bridge(self, sums: _Sums) -> Bridge:
        return _bridge(sums.solved(self._ridge, self._whole_ridge), knows_whole=self._whole_ridge < NOTHING)

    def _error(self, ridge: float, whole_ridge: float) -> float:
        return sum(own.error((self._all - own).solved(ridge, whole_ridge)) for own in self._sums)


@dataclass(frozen=True, slots=True)
class _Sums:
    """All that least squares want to know of images: X their tokens, `whole_of` them and ones, D what they lack."""

    inputs: Tensor
    """XᵀX, (3 dim + 1, 3 dim + 1)"""
    lacking: Tensor
    """XᵀD, (3 dim + 1, dim)"""
    square: float
    """The sum of D's squares."""

    @classmethod
    @torch.inference_mode()
    def of(cls, made: Tensor, wanted: Tensor) -> _Sums:
        dim, count = made.shape[-1], made.shape[1]
        inputs = torch.zeros(3 * dim + 1, 3 * dim + 1, dtype=torch.float64)
        lacking = torch.zeros(3 * dim + 1, dim, dtype=torch.float64)
        own, mean = slice(0, dim), slice(dim, 2 * dim)
        square = 0.0
        for some, aims in zip(torch.split(made, _CHUNK), torch.split(wanted, _CHUNK), strict=True):
            missing = aims - some
            tokens = some.flatten(0, 1)
            inputs[own, own] += tokens.T @ tokens
            lacking[own] += tokens.T @ missing.flatten(0, 1)
            square += float(missing.double().square().sum())
        whole = torch.cat([whole_of(some) for some in torch.split(made, _CHUNK)])[:, 0].double()
        whole = torch.cat([whole, torch.ones(len(made), 1, dtype=torch.float64)], dim=1)
        inputs[dim:, dim:] = count * whole.T @ whole
        inputs[own, dim:] = inputs[mean, dim:]  # a sum over an image's tokens is as many times their mean
        inputs[dim:, own] = inputs[own, dim:].T
        lacking[dim:] = count * whole.T @ (wanted.mean(dim=1) - made.mean(dim=1)).double()
        return cls(inputs, lacking, square)

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(self.inputs + other.inputs, self.lacking + other.lacking, self.square + other.square)

    def __sub__(self, other: _Sums) -> _Sums:
        return _Sums(self.inputs - other.inputs, self.lacking - other.lacking, self.square - other.square)

    def solved(self, ridge: float, whole_ridge: float) -> Tensor:
        """What to add to tokens, of X, (3 dim + 1, dim)."""
        dim = self.lacking.shape[1]
        damping = ridge * self.inputs.diagonal()[:dim].mean() * torch.ones(3 * dim + 1, dtype=torch.float64)
        damping[dim:-1] *= whole_ridge
        weights: Tensor = torch.linalg.solve(self.inputs + damping.diag(), self.lacking)
        return weights

    def error(self, weights: Tensor) -> float:
        """The sum of the squares of D - X `weights`."""
        return self.square + float((weights * (self.inputs @ weights - 2 * self.lacking)).sum())


def _bridge(weights: Tensor, *, knows_whole: bool) -> Bridge:
    dim = weights.shape[1]
    bridge = Bridge(dim, knows_whole=knows_whole)
    with torch.no_grad():
        bridge.own.weight.add_(weights[:dim].T.float())
        bridge.own.bias.add_(weights[-1].float())
        if bridge.whole is not None:
            bridge.whole.weight.add_(weights[dim:-1].T.float())
    return bridge
