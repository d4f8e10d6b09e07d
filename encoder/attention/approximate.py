"""Attention whose cost grows with the tokens' number and not with its square. None is exact; each says how it errs.

All take query, key and value (batch, heads, tokens, dim) and give (batch, heads, tokens, dim). They were made to be
trained with. Put into a model that was trained with exact attention they change its features much; how much is
measured (`docs/encoders.md`), and so is from how many tokens on they are faster at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Feature = Callable[[Tensor], Tensor]

KERNELS: dict[str, Feature] = {
    # Katharopoulos et al., "Transformers are RNNs" (2020), section 3.2.
    "elu": lambda x: F.elu(x) + 1,
    # Shen et al., "Efficient Attention" (2021); Han et al., "FLatten Transformer" (2023) sharpen it by a power.
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}
_NONZERO = 1e-6  # a query that no key answers sees nothing rather than NaN


def linear(query: Tensor, key: Tensor, value: Tensor, kernel: Feature) -> Tensor:
    """Softmax's exponential replaced by φ(q) · φ(k), so that keys and values are summed once for all queries."""
    q, k = kernel(query), kernel(key)
    summed = k.transpose(-1, -2) @ value  # (batch, heads, dim, dim)
    norm = q @ k.sum(dim=-2)[..., None]  # (batch, heads, tokens, 1)
    return (q @ summed) / (norm + _NONZERO)


def orthogonal_features(dim: int, count: int, seed: int = 0) -> Tensor:
    """Random directions (count, dim), orthogonal within each `dim` of them, as long as Gaussian ones.

    Choromanski et al., "Rethinking Attention with Performers" (2021), section 2.4: less variance than independent ones.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    for start in range(0, count, dim):
        directions, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator))
        lengths = torch.randn(dim, dim, generator=generator).norm(dim=1)
        blocks.append((directions.T * lengths[:, None])[: count - start])
    return torch.cat(blocks)


def performer(query: Tensor, key: Tensor, value: Tensor, directions: Tensor) -> Tensor:
    """FAVOR+: exp(q · k) as the mean of positive random features; unbiased, and exact in the limit of many.

    Choromanski et al. (2021), lemma 1. `directions` (count, dim) are `orthogonal_features`.
    """
    scale = query.shape[-1] ** -0.25
    q, k = query * scale, key * scale
    q_logits = q @ directions.T - q.square().sum(dim=-1, keepdim=True) / 2
    k_logits = k @ directions.T - k.square().sum(dim=-1, keepdim=True) / 2
    # Whatever is subtracted here cancels in the quotient, and keeps the exponentials finite.
    q_features = (q_logits - q_logits.amax(dim=-1, keepdim=True)).exp()
    k_features = (k_logits - k_logits.amax(dim=(-1, -2), keepdim=True)).exp()
    norm = q_features @ k_features.sum(dim=-2)[..., None]
    seen: Tensor = (q_features @ (k_features.transpose(-1, -2) @ value)) / (norm + _NONZERO)
    return seen


def linformer(query: Tensor, key: Tensor, value: Tensor, projection: Tensor) -> Tensor:
    """Exact attention to keys and values that a `projection` (fewer, tokens) has mixed.

    Wang et al., "Linformer" (2020), with one projection for keys and values (their parameter sharing).
    """
    return F.scaled_dot_product_attention(query, projection @ key, projection @ value)


def pooling(tokens: int, fewer: int) -> Tensor:
    """A projection (fewer, tokens) that averages neighbours: Linformer's, where none was learnt."""
    starts = [index * tokens // fewer for index in range(fewer + 1)]
    projection = torch.zeros(fewer, tokens)
    for index in range(fewer):
        projection[index, starts[index] : starts[index + 1]] = 1 / (starts[index + 1] - starts[index])
    return projection


def grouped(query: Tensor, key: Tensor, value: Tensor, groups: int) -> Tensor:
    """Heads share keys and values: the mean of those in each of `groups`.

    Ainslie et al., "GQA" (2023), section 2.1, where the mean is what training goes on from. Exact where the heads of a
    group have equal keys and values.
    """
    batch, heads, tokens, dim = key.shape
    shared_key = key.view(batch, groups, heads // groups, tokens, dim).mean(dim=2)
    shared_value = value.view(batch, groups, heads // groups, tokens, dim).mean(dim=2)
    return F.scaled_dot_product_attention(
        query,
        shared_key.repeat_interleave(heads // groups, dim=1),
        shared_value.repeat_interleave(heads // groups, dim=1),
    )


def int8(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Query · key in whole numbers of 8 bits with a scale per token, softmax and values in float.

    Shen et al., "Q-BERT" (2020); per token as in Zhang et al., "SageAttention" (2024). The products are of whole
    numbers held in float32, which is exact up to 2²⁴ = 127² · 1040 channels: PyTorch has no batched INT8 product for
    CPUs, so this shows what it costs in fidelity, and gains no time.
    """
    q, q_scale = _per_token(query)
    k, k_scale = _per_token(key)
    scores = (q @ k.transpose(-1, -2)) * q_scale * k_scale.transpose(-1, -2) / math.sqrt(query.shape[-1])
    seen: Tensor = scores.softmax(dim=-1) @ value
    return seen


def _per_token(tokens: Tensor) -> tuple[Tensor, Tensor]:
    scale = tokens.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127
    return (tokens / scale).round(), scale
