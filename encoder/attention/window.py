"""Attention within windows of the grid, and within windows shifted by half of their side.

Liu et al., "Swin Transformer" (2021), section 3.2. Each window's tokens see each other, and the class tokens and
registers, which see everything. Exactly what full attention is when all that lies outside is masked.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def window(query: Tensor, key: Tensor, value: Tensor, side: int, shift: int = 0, extra: int = 0) -> Tensor:
    """Attention of tokens (batch, heads, extra + rows², dim) in windows of `side`², shifted by `shift` both ways.

    The grid is square, and `side` divides its rows.
    """
    rows = int((query.shape[2] - extra) ** 0.5)
    assert rows * rows == query.shape[2] - extra
    assert rows % side == 0
    parts = [_windows(tensor[:, :, extra:], rows, side, shift) for tensor in (query, key, value)]
    # (batch, heads, windows, side², dim); each window's keys have the extra tokens' before them
    count = parts[0].shape[2]
    keys, values = (
        torch.cat([tensor[:, :, None, :extra].expand(-1, -1, count, -1, -1), part], dim=3)
        for tensor, part in zip((key, value), parts[1:], strict=True)
    )
    seen = F.scaled_dot_product_attention(parts[0], keys, values, attn_mask=_wrapped(rows, side, shift, extra))
    grid = _back(seen, rows, side, shift)
    if not extra:
        return grid
    return torch.cat([F.scaled_dot_product_attention(query[:, :, :extra], key, value), grid], dim=2)


def _windows(tokens: Tensor, rows: int, side: int, shift: int) -> Tensor:
    batch, heads, _, dim = tokens.shape
    grid = tokens.reshape(batch, heads, rows, rows, dim)
    if shift:
        grid = grid.roll((-shift, -shift), dims=(2, 3))
    grid = grid.reshape(batch, heads, rows // side, side, rows // side, side, dim)
    return grid.transpose(3, 4).reshape(batch, heads, (rows // side) ** 2, side * side, dim)


def _back(seen: Tensor, rows: int, side: int, shift: int) -> Tensor:
    batch, heads, _, _, dim = seen.shape
    grid = seen.reshape(batch, heads, rows // side, rows // side, side, side, dim).transpose(3, 4)
    grid = grid.reshape(batch, heads, rows, rows, dim)
    if shift:
        grid = grid.roll((shift, shift), dims=(2, 3))
    return grid.reshape(batch, heads, rows * rows, dim)


def _wrapped(rows: int, side: int, shift: int, extra: int) -> Tensor | None:
    """A mask (windows, side², extra + side²): what a shift brought round from the other edge is no neighbour."""
    if not shift:
        return None
    region = torch.zeros(rows, dtype=torch.int64)
    region[rows - side : rows - shift] = 1
    region[rows - shift :] = 2
    regions = (region[:, None] * 3 + region[None])[None, None, :, :, None]
    # Rolled already: the regions are of the shifted grid.
    ids = _windows(regions.reshape(1, 1, rows * rows, 1).float(), rows, side, 0)[0, 0, :, :, 0]
    same = ids[:, :, None] == ids[:, None, :]
    return torch.cat([torch.ones(*same.shape[:2], extra, dtype=torch.bool), same], dim=2)
