"""From how many tokens on is another way to look faster than exact attention, on this processor?

    python -m tests.bench.attention        # a minute; one thread, 6 heads of 64, as in a ViT-S

All ways take turns, in seconds that the process really had; the fastest of the rounds counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from edgecache.encoder.attention.ways import way
from edgecache.encoder.vit import VitShape
from torch import Tensor

from .report import Table

HEADS, HEAD_DIM = 6, 64
ROWS = (8, 16, 24, 32, 48, 64)
"""Sides of the grid: 64 to 4,096 tokens."""
NAMES = ("window:8", "shifted:8", "linear:elu", "linear:relu2", "performer:128", "linformer:64", "grouped:2", "int8")
ROUNDS = 5

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def fastest_ms(ways: Mapping[str, Attend], tokens: int) -> dict[str, float]:
    """Milliseconds of each way for one image of so many tokens."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, HEADS, tokens, HEAD_DIM)
    best = dict.fromkeys(ways, float("inf"))
    with torch.inference_mode():
        for _ in range(ROUNDS + 1):  # the first allocates
            for name, attend in ways.items():
                started = time.process_time()
                attend(query, key, value)
                best[name] = min(best[name], 1000 * (time.process_time() - started))
    return best


def crossings() -> Table:
    """Milliseconds by tokens, and from how many on each way is faster than the exact one."""
    times: dict[int, dict[str, float]] = {}
    for rows in ROWS:
        shape = VitShape(image_side=16 * rows, stem=(), patch_side=16, dim=HEADS * HEAD_DIM, heads=HEADS)
        ways = {name: way(name, shape, 1) for name in NAMES}
        times[rows * rows] = fastest_ms({"exact": F.scaled_dot_product_attention, **ways}, rows * rows)
    lines = []
    for name in ("exact", *NAMES):
        faster = [tokens for tokens, made in times.items() if made[name] < made["exact"]]
        # From there on and ever after: one lucky round in the middle is no crossing.
        crossing = next((tokens for tokens in times if all(t in faster for t in times if t >= tokens)), None)
        told = "" if name == "exact" else f"{crossing:,}" if crossing else f"never up to {max(times):,}"
        lines.append([name, *(f"{made[name]:.2f}" for made in times.values()), told or "the measure"])
    return Table(
        "One layer's attention, milliseconds by tokens, one thread",
        ["way", *(f"{tokens:,}" for tokens in times), "faster from"],
        lines,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(crossings().markdown())
