"""What it costs to make, check and read a payload, beside copying the features; and what lz4 would save."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import lz4.block
import numpy as np
from edgecache.encoder.spec import TINY
from edgecache.encoder.worker import EncoderWorker
from edgecache.protocol import payload
from edgecache.protocol.keys import FeatureKey, digest_of
from edgecache.protocol.payload import Codec
from edgecache.protocol.quantization import dequantize, quantize
from numpy.typing import NDArray

from .features import ENCODER, SHAPES
from .images import NEXT_FRAME, photographs, png
from .report import Table, seconds

ROUNDS = 15
ROUND_S = 0.02
AT_ONCE = 32


def codec() -> Table:
    """Each step on features of 196 × 768; GB/s of float32, whatever the step reads and writes."""
    values = np.random.default_rng(0).standard_normal(SHAPES["196 × 768"], np.float32)
    key = FeatureKey(digest_of(b""), ENCODER)
    quantized, copy = quantize(values), np.empty_like(values)
    made = {kind: payload.encode(values, key, codec=kind) for kind in Codec}
    data = bytes(made[Codec.INT8].data)
    steps: dict[str, Callable[[], object]] = {
        "copy to memory that is in use": lambda: np.copyto(copy, values),
        "copy to new memory": lambda: values.copy(),
        "quantise to INT8, with the fidelity": lambda: quantize(values),
        "dequantise": lambda: dequantize(quantized.codes, quantized.scales),
        "payload of INT8: quantise, try lz4, checksum": lambda: payload.encode(values, key, codec=Codec.INT8),
        "payload of float16": lambda: payload.encode(values, key, codec=Codec.FLOAT16),
        "payload of float32": lambda: payload.encode(values, key, codec=Codec.FLOAT32),
        "parse an INT8 payload: every check, checksum": lambda: payload.parse(data, key.packed),
        "array of an INT8 payload": lambda: made[Codec.INT8].array(),
    }
    took = _interleaved(steps)
    fresh = took["copy to new memory"]
    rows = [
        (name, seconds(here), f"{values.nbytes / here / 1e9:.2f}", f"{here / fresh:.2f}") for name, here in took.items()
    ]
    headings = ("step", "time", "GB/s of float32", "× a copy to new memory")
    return Table("196 × 768, 602,112 bytes of float32", headings, rows)


async def compression(directory: Path) -> Table:
    """What lz4 makes of the INT8 codes of real features, and of their difference to those of a similar frame."""
    pictures = photographs(directory)
    encoder = EncoderWorker(TINY)
    try:
        first = await _quantized(encoder, [png(pixels) for pixels in pictures])
        rows = [("INT8 payload bodies, scales and codes", *_gains([scales + codes for scales, codes in first]), "")]
        for name, following in NEXT_FRAME.items():
            second = await _quantized(encoder, [png(following(pixels)) for pixels in pictures])
            pairs = [(_int8(a), _int8(b)) for (_, a), (_, b) in zip(first, second, strict=True)]
            same = median(float((a == b).mean()) for a, b in pairs)
            differences = [(b - a).tobytes() for a, b in pairs]  # modulo 256
            rows.append((f"difference of codes: {name}", *_gains(differences), f"{same:.0%}"))
    finally:
        await encoder.close()
    headings = ("bytes", "lz4, median", "lz4, best", "equal codes")
    return Table(f"{len(pictures)} images by {TINY}, {len(first[0][1]):,} codes each", headings, rows)


def _interleaved(steps: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds for one call of each, the median of rounds that take turns."""
    calls = {}
    for name, step in steps.items():
        started = time.perf_counter()
        step()
        calls[name] = max(1, int(ROUND_S / (time.perf_counter() - started)))
    took: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            started = time.perf_counter()
            for _ in range(calls[name]):
                step()
            took[name].append((time.perf_counter() - started) / calls[name])
    return {name: median(here) for name, here in took.items()}


async def _quantized(encoder: EncoderWorker, images: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Scales and codes of each image, as a payload has them."""
    arrays: list[NDArray[np.float32]] = []
    for at in range(0, len(images), AT_ONCE):
        arrays += await asyncio.gather(*(encoder.encode(image) for image in images[at : at + AT_ONCE]))
    made = [quantize(array) for array in arrays]
    return [(here.scales.tobytes(), here.codes.tobytes()) for here in made]


def _int8(codes: bytes) -> NDArray[np.int8]:
    return np.frombuffer(codes, np.int8)


def _gains(bodies: Sequence[bytes]) -> tuple[str, str]:
    gains = [len(body) / len(lz4.block.compress(body, store_size=False)) for body in bodies]
    return f"{median(gains):.2f} ×", f"{max(gains):.2f} ×"
