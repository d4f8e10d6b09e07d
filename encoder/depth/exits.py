"""Early exit: after some blocks, a picture whose features are sure already leaves.

Each exit has a bridge of its own, fitted to the plain model's features (`encoder/bridge.py`), since tokens half-way
up are written in another hand than those at the top. How sure: the class head's largest probability, where the model
has a head (Teerapittayanon et al., "BranchyNet", 2016); else how little the last block changed the tokens, their mean
cosine before and after it. A threshold per exit, found on images (`thresholds_for`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..bridge import Bridge
from ..reduced import ReducedVit, Tokens
from ..vit import VisionTransformer


class Asked(NamedTuple):
    """What those who leave early, or are seen small, are to have in the mean."""

    cosine: float = 0.99
    """To the plain model's features."""
    agreement: float = 0.0
    """The share of them whose class is the plain model's, by its own head."""


class Worth(NamedTuple):
    """What images would leave with, as `Asked` has it, each (images,)."""

    cosine: NDArray[np.float32]
    agreement: NDArray[np.float32]
    """1 for the same class, 0 for another; 0 for a model without a head."""

    @classmethod
    @torch.inference_mode()
    def of(cls, model: VisionTransformer, made: Tensor, wanted: Tensor) -> Worth:
        """Of features (images, tokens, dim) beside the plain model's."""
        cosine = cosine_of(made, wanted)
        if not isinstance(model.head, nn.Linear):
            return cls(cosine, np.zeros(len(made), np.float32))
        same = model.classify(made).argmax(dim=1) == model.classify(wanted).argmax(dim=1)
        return cls(cosine, same.float().numpy())


class Tried(NamedTuple):
    """Images at each exit, over bridges that were fitted on others: thresholds for whatever is asked follow."""

    sureness: list[NDArray[np.float32]]
    """How sure they were, (images,) for each exit."""
    worths: list[Worth]
    """What they would have left with."""

    def thresholds(self, asked: Asked) -> tuple[float, ...]:
        """How sure one must be, for each exit."""
        return tuple(thresholds_for(self.sureness, self.worths, asked))


def cosine_of(made: Tensor, wanted: Tensor) -> NDArray[np.float32]:
    """For each image, the cosine of all of its features as one vector."""
    cosines: NDArray[np.float32] = F.cosine_similarity(made.flatten(1), wanted.flatten(1)).numpy()
    return cosines


class Stage(nn.Module):
    """The blocks up to one exit. Takes pixels or what the stage before left; gives how sure one is there, and the rest.

    The rest is what the next stage takes: tokens (batch, n, dim) and, where some are merged, their sizes (batch, n) and
    for each of the full grid's its place among them (batch, tokens), all in float32. The features are `Leaving`'s, made
    for those who leave and for nobody else: how sure one is follows from their mean alone, and a bridge is linear.
    """

    def __init__(self, reduced: ReducedVit, blocks: Sequence[int], is_first: bool):
        super().__init__()
        assert not reduced.shortcuts.prune, "tokens set aside are not carried over"
        self.reduced, self.bridge = reduced, cast("nn.Module", nn.Identity())
        self.blocks = list(blocks)
        self.is_first = is_first

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        features, unchanged, state = self.run(*inputs)
        return (self.sureness(features, unchanged), *state)

    def run(self, *inputs: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Features before the bridge, how little the last block changed (batch,), and what the next stage takes."""
        kept = self.start(*inputs)
        before = kept.on_the_grid()
        for index in self.blocks:
            before = kept.on_the_grid()
            self.reduced.block(kept, index)
        unchanged = F.cosine_similarity(kept.on_the_grid(), before, dim=-1).mean(dim=1)
        merged = (kept.sizes, kept.where.float()) if self.reduced.shortcuts.merge else ()
        return self.reduced.finish(kept), unchanged, (kept.tokens, *merged)

    def start(self, *inputs: Tensor) -> Tokens:
        """What the first of these blocks takes."""
        if self.is_first:
            return self.reduced.start(inputs[0])
        if self.reduced.shortcuts.merge:
            return Tokens(inputs[0], inputs[1], inputs[2].long())
        return Tokens.all_of(inputs[0])

    def sureness(self, features: Tensor, unchanged: Tensor) -> Tensor:
        """Of features (batch, tokens, dim) before the bridge: by the head, or if there is none as `unchanged` says."""
        bridge = self.bridge
        return self.sureness_of(bridge.mean(features) if isinstance(bridge, Bridge) else features, unchanged)

    def sureness_of(self, bridged: Tensor, unchanged: Tensor) -> Tensor:
        """Of features behind the bridge, or of their mean alone."""
        if not isinstance(self.reduced.model.head, nn.Linear):
            return unchanged
        likeliest = self.reduced.model.classify(bridged).softmax(dim=-1).topk(2, dim=-1).values
        return likeliest[:, 0] - likeliest[:, 1]


class LastStage(nn.Module):
    """The blocks after the last exit; gives features."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, *inputs: Tensor) -> Tensor:
        kept = self.stage.start(*inputs)
        for index in self.stage.blocks:
            self.stage.reduced.block(kept, index)
        features: Tensor = self.stage.bridge(self.stage.reduced.finish(kept))
        return features


class Leaving(nn.Module):
    """The features of those who leave after a stage, of its tokens and, where some are merged, of where all are."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, tokens: Tensor, where: Tensor | None = None) -> Tensor:
        kept = Tokens.all_of(tokens) if where is None else Tokens(tokens, tokens[..., 0], where.long())
        features: Tensor = self.stage.bridge(self.stage.reduced.finish(kept))
        return features


class FirstLook(nn.Module):
    """A whole tower that says how sure one is of the features that it makes, for who may need a second look."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        made, unchanged, _ = self.stage.run(pixels)
        features = self.stage.bridge(made)
        return features, self.stage.sureness_of(features, unchanged)


def stages_of(reduced: ReducedVit, exits: Sequence[int]) -> list[Stage]:
    """The stages up to each of `exits` (numbers of blocks, ascending) and to the end, without bridges."""
    cuts = [0, *exits, reduced.run[-1] + 1]
    return [
        Stage(reduced, [index for index in reduced.run if start <= index < end], is_first=number == 0)
        for number, (start, end) in enumerate(pairwise(cuts))
    ]


def thresholds_for(sureness: Sequence[NDArray[np.float32]], worths: Sequence[Worth], asked: Asked) -> list[float]:
    """The lowest threshold of each exit at which those who leave there have what is asked for, or more.

    For each exit, how sure each image was there and what it would leave with; 2.0 where nobody should.
    """
    thresholds = []
    is_there = np.ones(len(sureness[0]), bool) if sureness else np.zeros(0, bool)
    for sure, worth in zip(sureness, worths, strict=True):
        order = np.argsort(-sure[is_there], kind="stable")
        is_enough = np.ones(len(order), bool)
        for values, least in zip(worth, asked, strict=True):
            is_enough &= np.cumsum(values[is_there][order]) / np.arange(1, len(order) + 1) >= least
        enough = np.flatnonzero(is_enough)
        threshold = float(sure[is_there][order][enough[-1]]) if len(enough) else 2.0
        thresholds.append(threshold)
        is_there &= sure < threshold
    return thresholds


@torch.inference_mode()
def layer_agreement(model: VisionTransformer, pixels: Tensor) -> list[float]:
    """For each block, the mean cosine of its tokens before and after: near 1, and it can perhaps be left out."""
    tokens, agreement = model.embed(pixels), []
    for block in model.blocks:
        after = block(tokens)
        agreement.append(float(F.cosine_similarity(tokens, after, dim=-1).mean()))
        tokens = after
    return agreement
