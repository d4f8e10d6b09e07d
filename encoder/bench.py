"""How long does an image take in the worker, from the node's point of view?

    python -m edgecache.encoder.bench [--encoder SPEC] [--threads N] [IMAGE ...]

Without images it makes two: a PNG of 512 × 512 and a JPEG of 4,000 × 3,000 pixels.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import time
from pathlib import Path
from statistics import median, quantiles

import numpy as np
from PIL import Image

from .spec import TINY
from .worker import WAITING_IMAGES_MAX, EncoderWorker

ALONE = 50
"""Times that each image is encoded with nothing else to do."""


async def measure(spec: str, threads: int | None, images: dict[str, bytes]) -> None:
    """Print the seconds to the first answer, and for each image the milliseconds alone and in a crowd."""
    encoder = EncoderWorker(spec, threads=threads)
    try:
        started = time.perf_counter()
        first, *_ = images.values()
        tokens, dim = (await encoder.encode(first)).shape
        print(f"{spec}: {tokens} × {dim}, first answer after {time.perf_counter() - started:.2f} s")
        print(f"{'image':24} {'kB':>6} {'median ms':>10} {'p90 ms':>8} {'ms each of ' + str(WAITING_IMAGES_MAX):>16}")
        for name, image in images.items():
            alone = [await _milliseconds(encoder, image, 1) for _ in range(ALONE)]
            crowd = await _milliseconds(encoder, image, WAITING_IMAGES_MAX) / WAITING_IMAGES_MAX
            p90 = quantiles(alone, n=10)[-1]
            print(f"{name:24} {len(image) // 1000:6} {median(alone):10.1f} {p90:8.1f} {crowd:16.1f}")
    finally:
        await encoder.close()


async def _milliseconds(encoder: EncoderWorker, image: bytes, at_once: int) -> float:
    started = time.perf_counter()
    await asyncio.gather(*(encoder.encode(image) for _ in range(at_once)))
    return 1000 * (time.perf_counter() - started)


def _made() -> dict[str, bytes]:
    """Blurred noise with grain: about as hard to decode as a photograph."""
    chance, made = np.random.default_rng(0), {}
    for format, width, height in (("PNG", 512, 512), ("JPEG", 4000, 3000)):
        coarse = Image.fromarray(chance.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
        grain = chance.integers(-6, 7, smooth.shape, dtype=np.int16)
        file = io.BytesIO()
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(file, format)
        made[f"{format} {width} × {height}"] = file.getvalue()
    return made


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m edgecache.encoder.bench", description=__doc__)
    parser.add_argument("--encoder", default=TINY, metavar="SPEC")
    parser.add_argument("--threads", type=int, help="default: all cores but one, 4 at most")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE")
    options = parser.parse_args()
    images = {path.name: path.read_bytes() for path in options.images} or _made()
    asyncio.run(measure(options.encoder, options.threads, images))


if __name__ == "__main__":
    main()
