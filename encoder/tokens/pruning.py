"""Token pruning: the least important tokens stop being computed, and keep what they had become so far.

By attention, as in Liang et al., "EViT: Not All Patches are What You Need" (2022), with what all tokens look at where
there is no class token; or by the length of the token. On a schedule of shares over the depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Kept(NamedTuple):
    """Places of the tokens that go on and of those that are set aside, each (batch, n) and ascending."""

    on: Tensor
    aside: Tensor


def importance_by_attention(query: Tensor, key: Tensor, class_tokens: int) -> Tensor:
    """How much each token is looked at, (batch, tokens): by the class tokens, or by all where there are none."""
    asking = query[:, :, :class_tokens] if class_tokens else query  # (batch, heads, asking, dim)
    scores = asking @ key.transpose(-1, -2) * key.shape[-1] ** -0.5
    importance: Tensor = scores.softmax(dim=-1).mean(dim=(1, 2))
    return importance


def importance_by_norm(tokens: Tensor) -> Tensor:
    """The length of each token, (batch, tokens)."""
    length: Tensor = tokens.norm(dim=-1)
    return length


def keep(importance: Tensor, count: int, protected: int = 0) -> Kept:
    """The `count` most important tokens, the first `protected` always among them."""
    assert protected <= count <= importance.shape[1]
    if protected:
        always = torch.full_like(importance[:, :protected], float("inf"))
        importance = torch.cat([always, importance[:, protected:]], dim=1)
    order = importance.topk(importance.shape[1], dim=-1).indices  # topk rather than sort: every runtime has it
    return Kept(order[:, :count].sort(dim=-1)[0], order[:, count:].sort(dim=-1)[0])


def places(kept: Kept, aside_from: int) -> Tensor:
    """Where each token is afterwards, (batch, tokens): its new place, or `aside_from` and on for those set aside."""
    batch, on, aside = len(kept.on), kept.on.shape[1], kept.aside.shape[1]
    where = torch.zeros(batch, on + aside, dtype=torch.int64)
    where = where.scatter(1, kept.on, torch.arange(on).expand(batch, -1))
    return where.scatter(1, kept.aside, aside_from + torch.arange(aside).expand(batch, -1))


def share_at(schedule: Sequence[float], block: int, depth: int) -> float:
    """The share of tokens that go on after `block` of `depth`: (1, 0.75, 0.5, 0.25) steps down each quarter."""
    return schedule[min(len(schedule) - 1, block * len(schedule) // depth)]
