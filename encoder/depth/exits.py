"""Early exit: after some blocks, a picture whose features are sure already leaves.

Each exit has a bridge of its own, fitted to the plain model's features (`encoder/reduced.py`), since tokens half-way
up are written in another hand than those at the top. How sure: the class head's largest probability, where the model
has a head (Teerapittayanon et al., "BranchyNet", 2016); else how little the last block changed the tokens, their mean
cosine before and after it. A threshold per exit, found on images (`thresholds_for`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..reduced import ReducedVit, Tokens
from ..vit import VisionTransformer


class Stage(nn.Module):
    """The blocks up to one exit. Takes pixels or what the stage before left; gives features, how sure, and the rest.

    The rest is what the next stage takes: tokens (batch, n, dim) and, where some are merged, their sizes (batch, n) and
    for each of the full grid's its place among them (batch, tokens), all in float32. The last gives features alone.
    """

    def __init__(self, reduced: ReducedVit, blocks: Sequence[int], bridge: nn.Module, is_first: bool, is_last: bool):
        super().__init__()
        assert not reduced.shortcuts.prune, "tokens set aside are not carried over"
        self.reduced, self.bridge = reduced, bridge
        self.blocks = list(blocks)
        self.is_first, self.is_last = is_first, is_last

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        kept, before = self.run(*inputs)
        features = self.bridge(self.reduced.finish(kept))
        if self.is_last:
            return (features,)
        merged = (kept.sizes, kept.where.float()) if self.reduced.shortcuts.merge else ()
        return (features, self._sureness(features, kept, before), kept.tokens, *merged)

    def run(self, *inputs: Tensor) -> tuple[Tokens, Tensor]:
        """The tokens after these blocks, and those of the full grid before the last of them."""
        if self.is_first:
            kept = self.reduced.start(inputs[0])
        elif self.reduced.shortcuts.merge:
            kept = Tokens(inputs[0], inputs[1], inputs[2].long())
        else:
            kept = Tokens.all_of(inputs[0])
        before = kept.on_the_grid()
        for index in self.blocks:
            before = kept.on_the_grid()
            self.reduced.block(kept, index)
        return kept, before

    def _sureness(self, features: Tensor, kept: Tokens, before: Tensor) -> Tensor:
        if isinstance(self.reduced.model.head, nn.Linear):
            return self.reduced.model.classify(features).softmax(dim=-1).amax(dim=-1)
        return F.cosine_similarity(kept.on_the_grid(), before, dim=-1).mean(dim=1)


def stages_of(reduced: ReducedVit, exits: Sequence[int]) -> list[Stage]:
    """The stages with an exit after each of `exits` (numbers of blocks, ascending), without bridges."""
    cuts = [0, *exits, reduced.run[-1] + 1]
    last = len(cuts) - 2
    return [
        Stage(
            reduced,
            [index for index in reduced.run if start <= index < end],
            nn.Identity(),
            is_first=number == 0,
            is_last=number == last,
        )
        for number, (start, end) in enumerate(pairwise(cuts))
    ]


def thresholds_for(
    sureness: Sequence[NDArray[np.float32]], cosines: Sequence[NDArray[np.float32]], cosine_min: float
) -> list[float]:
    """The lowest threshold of each exit at which those who leave there have a mean cosine of `cosine_min` or more.

    For each exit, how sure each image was there and the cosine of what it would leave with; 2.0 where nobody should.
    """
    thresholds = []
    is_there = np.ones(len(sureness[0]), bool) if sureness else np.zeros(0, bool)
    for sure, cosine in zip(sureness, cosines, strict=True):
        order = np.argsort(-sure[is_there], kind="stable")
        means = np.cumsum(cosine[is_there][order]) / np.arange(1, len(order) + 1)
        enough = np.flatnonzero(means >= cosine_min)
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
