"""A vision transformer that does less: fewer tokens, fewer blocks, a smaller picture. Its features keep their shape.

Whatever is merged or set aside on the way is put back on the full grid at the end, since a cache holds one shape of
feature per encoder. What the shortcuts cost is measured against the plain model's features (`encoder/measure.py`), and
some of it is won back by a bridge to them at the end (`encoder/bridge.py`).
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from .attention.ways import way
from .shortcuts import Shortcuts
from .tokens import merging, pruning
from .tokens.resolution import Regrid, Shrink
from .vit import Block, VisionTransformer


class ReducedVit(nn.Module):
    """Pixels (batch, 3, side, side) to the tokens of the full grid (batch, tokens, dim), with `shortcuts` taken."""

    position: Tensor

    def __init__(self, model: VisionTransformer, shortcuts: Shortcuts) -> None:
        super().__init__()
        shape = model.shape
        shortcuts.check(shape.image_side, shape.patch_side, shape.depth)
        self.model = _looking(model, shortcuts.attention) if shortcuts.attention else model
        self.shortcuts = shortcuts
        self.side = shortcuts.side or shape.image_side
        is_smaller = self.side != shape.image_side
        self.shrink = Shrink(shape.image_side, self.side) if is_smaller else nn.Identity()
        self.regrid = Regrid(self.side // shape.patch_side, shape.grid_side) if is_smaller else nn.Identity()
        rows = self.side // shape.patch_side
        self.register_buffer("position", model.position_at(rows, rows).detach(), persistent=False)
        self.bridge: nn.Module = nn.Identity()
        depth = shortcuts.depth or shape.depth
        self.run = [index for index in range(depth) if index not in shortcuts.skip]

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.unbridged(pixels)
        bridged: Tensor = self.bridge(tokens)
        return bridged

    def unbridged(self, pixels: Tensor) -> Tensor:
        """The features before the bridge: what it is fitted on."""
        kept = self.start(pixels)
        for index in self.run:
            self.block(kept, index)
        return self.finish(kept)

    def start(self, pixels: Tensor) -> Tokens:
        """What the first block takes."""
        return Tokens.all_of(self.model.embed(self.shrink(pixels), self.position))

    def finish(self, kept: Tokens) -> Tensor:
        """Features, before the bridge, of tokens that may come from any block."""
        extra = self.model.shape.extra_tokens
        full: Tensor = self.model.norm(kept.on_the_grid())
        if isinstance(self.regrid, nn.Identity):
            return full
        return torch.cat([full[:, :extra], self.regrid(full[:, extra:])], dim=1)

    def block(self, kept: Tokens, index: int) -> None:
        """Run one block on the tokens that are still computed."""
        block, shortcuts, extra = self.model.blocks[index], self.shortcuts, self.model.shape.extra_tokens
        assert isinstance(block, Block)
        log_sizes = kept.sizes.log() if shortcuts.merge else None
        seen = block.mix(kept.tokens, log_sizes)
        kept.tokens = seen.tokens
        if shortcuts.merge:
            kept.merge(merging.match(seen.key, shortcuts.merge, extra))
        elif shortcuts.prune:
            kept.tokens = block.refine(kept.tokens)
            share = pruning.share_at(shortcuts.prune, index, self.model.shape.depth)
            count = extra + max(1, round(share * (kept.all - extra)))
            if count < int(kept.tokens.shape[1]):
                classes = self.model.shape.class_tokens
                by_norm = shortcuts.prune_by == "norm"
                importance = (
                    pruning.importance_by_norm(kept.tokens)
                    if by_norm
                    else pruning.importance_by_attention(seen.query, seen.key, classes)
                )
                kept.prune(pruning.keep(importance, count, extra))
            return
        kept.tokens = block.refine(kept.tokens)


def _looking(model: VisionTransformer, attention: str) -> VisionTransformer:
    """A copy of the model whose tokens look at each other in another way."""
    copied = deepcopy(model)
    for index, block in enumerate(copied.blocks):
        assert isinstance(block, Block)
        block.attention.attend = way(attention, model.shape, index)
    return copied


class Tokens:
    """The tokens that are still computed, and where each of the full grid's is to be found."""

    def __init__(self, tokens: Tensor, sizes: Tensor, where: Tensor) -> None:
        self.tokens = tokens
        """(batch, n, dim)"""
        self.sizes = sizes
        """(batch, n): patches that each stands for"""
        self.where = where
        """(batch, all): for each token of the full grid its place, or `all` and on among those set aside"""
        self.aside: list[Tensor] = []
        self.all = int(where.shape[1])

    @classmethod
    def all_of(cls, tokens: Tensor) -> Tokens:
        """Each stands for itself."""
        where = torch.arange(int(tokens.shape[1])).expand(len(tokens), -1)  # int: a tracer sees a constant
        return cls(tokens, torch.ones_like(tokens[..., 0]), where)

    def merge(self, matching: merging.Matching) -> None:
        """Some become one."""
        moved = merging.places(matching, int(self.tokens.shape[1]))
        self.tokens, self.sizes = merging.merge(self.tokens, self.sizes, matching)
        self.where = moved.gather(1, self.where)

    def prune(self, kept: pruning.Kept) -> None:
        """Some are set aside as they are."""
        moved = pruning.places(kept, self.all + sum(tokens.shape[1] for tokens in self.aside))
        # What was set aside before stays where it is: its places come after those of the tokens.
        unmoved = self.all + torch.arange(sum(tokens.shape[1] for tokens in self.aside)).expand(len(moved), -1)
        padding = torch.zeros(len(moved), self.all - moved.shape[1], dtype=torch.int64)
        self.where = torch.cat([moved, padding, unmoved], dim=1).gather(1, self.where)
        self.aside.append(merging.rows(self.tokens, kept.aside))
        self.tokens, self.sizes = merging.rows(self.tokens, kept.on), self.sizes.gather(1, kept.on)

    def on_the_grid(self) -> Tensor:
        """The full grid's tokens, (batch, all, dim)."""
        if not self.aside:
            return self.tokens if self.tokens.shape[1] == self.all else merging.rows(self.tokens, self.where)
        padding = self.tokens.new_zeros(len(self.tokens), self.all - self.tokens.shape[1], self.tokens.shape[2])
        return merging.rows(torch.cat([self.tokens, padding, *self.aside], dim=1), self.where)
