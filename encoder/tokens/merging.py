"""Token merging: in each block the most similar tokens become one. Needs no training.

Bolya et al., "Token Merging: Your ViT But Faster" (2022), section 3, written from the paper. Tokens are dealt in turn
into two sets A and B; each of A finds its most similar of B by its attention keys, the `count` most similar pairs are
merged into the mean of all patches that they stand for, and attention counts a token as often as it has patches.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Matching(NamedTuple):
    """Which tokens of A (the even ones) stay, which go, and into which of B (the odd ones)."""

    stay: Tensor
    """(batch, |A| - count), places in A, ascending"""
    go: Tensor
    """(batch, count), places in A"""
    into: Tensor
    """(batch, count), places in B"""


def match(key: Tensor, count: int, protected: int = 0) -> Matching:
    """Pair tokens by their keys (batch, heads, tokens, dim). The first `protected` neither go nor are merged into."""
    similar = key.sum(dim=1)  # over heads, (batch, tokens, dim)
    similar = similar / similar.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    a, b = similar[:, ::2], similar[:, 1::2]
    a_protected, b_protected = (protected + 1) // 2, protected // 2
    # One of A stays in any case: runtimes disagree on tensors of no size.
    count = max(0, min(count, a.shape[1] - max(1, a_protected) if b.shape[1] > b_protected else 0))
    scores = a @ b[:, b_protected:].transpose(1, 2)  # (batch, |A|, |B| - protected)
    best, into = scores.max(dim=-1)
    if a_protected:
        best = torch.cat([torch.full_like(best[:, :a_protected], -2.0), best[:, a_protected:]], dim=1)
    order = best.topk(best.shape[1], dim=-1).indices  # topk rather than sort: every runtime has it
    go = order[:, :count]
    stay = order[:, count:].sort(dim=-1)[0]
    return Matching(stay, go, into.gather(1, go) + b_protected)


def merge(tokens: Tensor, sizes: Tensor, matching: Matching) -> tuple[Tensor, Tensor]:
    """Tokens (batch, tokens, dim) and how many patches each stands for (batch, tokens), after merging.

    Whole rows are moved, and only those that something is merged into are computed: with copies of all of them, and
    values moved one by one, merging cost half of what it saved.
    """
    count, staying = int(tokens.shape[1]), int(matching.stay.shape[1])
    odd = torch.arange(1, count, 2).expand(len(tokens), -1)
    kept, gone = torch.cat([2 * matching.stay, odd], dim=1), 2 * matching.go
    into = staying + matching.into
    before, going = sizes.gather(1, kept), sizes.gather(1, gone)
    after = before.scatter_add(1, into, going)
    # Each a share of what it becomes: 1 for those that stay alone.
    parts = rows(tokens, gone) * (going / after.gather(1, into))[..., None]
    apart = rows(tokens, kept) * (before / after)[..., None]
    # No index_put: its export forgets all but the last of those that go into the same.
    return apart.scatter_add(1, into[..., None].expand_as(parts), parts), after


def places(matching: Matching, count: int) -> Tensor:
    """Where each of `count` tokens is after merging, (batch, count)."""
    batch, staying = matching.stay.shape
    even = torch.zeros(batch, (count + 1) // 2, dtype=torch.int64)
    even = even.scatter(1, matching.stay, torch.arange(staying).expand(batch, -1))
    even = even.scatter(1, matching.go, staying + matching.into)
    odd = staying + torch.arange(count // 2).expand(batch, -1)
    # Dealt back: even, odd, even, odd ...
    if count % 2:
        paired = torch.stack([even[:, :-1], odd], dim=2).flatten(1)
        return torch.cat([paired, even[:, -1:]], dim=1)
    return torch.stack([even, odd], dim=2).flatten(1)


def rows(tokens: Tensor, places: Tensor) -> Tensor:
    """Those of tokens (batch, tokens, dim) that are at `places` (batch, n)."""
    return tokens.flatten(0, 1).index_select(0, _flat(tokens, places)).view(len(tokens), -1, tokens.shape[-1])


def _flat(tokens: Tensor, places: Tensor) -> Tensor:
    """Places in all images' tokens end to end, (batch × n)."""
    if len(tokens) == 1:
        return places[0]
    return (places + int(tokens.shape[1]) * torch.arange(len(tokens))[:, None]).flatten()
