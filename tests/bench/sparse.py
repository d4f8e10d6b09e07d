"""Do zeros in the weights make a product faster on this processor?

    python -m tests.bench.sparse        # some seconds; one thread, the perceptron of a ViT-S: 257 × 384 by 384 × 1,536

A dense product does not look at its numbers. So a sparse one: torch's compressed rows (CSR) for zeros anywhere and for
2 of 4, compressed blocks (BSR) for blocks of 16 × 16. PyTorch has no kernel for 2 of 4 on CPUs. Against float32 and
against INT8 with scales per channel, which is what pruning has to beat.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import torch
from edgecache.encoder.weights.numbers import block_mask, magnitude_mask, two_of_four_mask
from torch import Tensor

from .report import Table

TOKENS, IN, OUT = 257, 384, 1536
ROUNDS = 30


def measured() -> Table:
    """Milliseconds of each product, and beside the dense one in float32."""
    torch.manual_seed(0)
    tokens, weight = torch.randn(TOKENS, IN), torch.randn(OUT, IN)
    across = tokens.T.contiguous()

    def csr(mask: Tensor) -> Callable[[], Tensor]:
        sparse = (weight * mask).to_sparse_csr()
        return lambda: sparse @ across

    def bsr(mask: Tensor) -> Callable[[], Tensor]:
        sparse = (weight * mask).to_sparse_bsr((16, 16))
        return lambda: sparse @ across

    masked = weight * magnitude_mask(weight, 0.5)
    linear = torch.nn.Linear(IN, OUT)
    quantized = torch.ao.quantization.quantize_dynamic  # deprecated, and the INT8 product that torch has for CPUs
    int8 = quantized(torch.nn.Sequential(linear), {torch.nn.Linear}, torch.qint8)  # type: ignore[no-untyped-call]
    products: dict[str, Callable[[], Tensor]] = {
        "dense, float32": lambda: weight @ across,
        "dense, 50 % zeros": lambda: masked @ across,
        "dense, INT8": lambda: int8(tokens),
        "2 of 4, CSR": csr(two_of_four_mask(weight)),
        **{f"{share:.0%} zeros, CSR": csr(magnitude_mask(weight, share)) for share in (0.5, 0.75, 0.9, 0.95, 0.99)},
        **{f"{share:.0%} of blocks zero, BSR": bsr(block_mask(weight, share)) for share in (0.5, 0.75, 0.9)},
    }
    best = dict.fromkeys(products, float("inf"))
    with torch.inference_mode():
        for _ in range(ROUNDS + 1):  # the first allocates
            for name, product in products.items():
                started = time.process_time()
                product()
                best[name] = min(best[name], 1000 * (time.process_time() - started))
    dense = best["dense, float32"]
    return Table(
        f"Zeros in a product of {TOKENS} × {IN} by {IN} × {OUT}, one thread",
        ["weights", "ms", "× dense float32"],
        [[name, f"{ms:.2f}", f"{dense / ms:.2f}"] for name, ms in best.items()],
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # sparse products are in beta, torch.ao is deprecated
    torch.set_num_threads(1)
    print(measured().markdown())
