"""What a node's encoder process takes: memory, seconds to its first features, and how it bears a busy neighbour.

    python -m tests.bench.encoder_process      # two minutes

A ViT-S/16 at 224 × 224 with random weights, which have no say in any of this, in INT8 on ONNX Runtime, and the same
with torch in float32. The neighbour is a process that computes all the time on one of the cores.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from edgecache.encoder import measure
from edgecache.encoder.bench_command import any_image
from edgecache.encoder.export_command import export
from edgecache.encoder.shapes import vit_s16
from edgecache.encoder.worker import EncoderWorker

from .report import Table

SPEC = "module:edgecache.encoder.shapes:vit_s16"
TIMES = 20
STARTS = 3


async def _started(spec: str, image: bytes, threads: int) -> tuple[float, float, float]:
    """Seconds to the first features, those of them that it computed, and megabytes at most after some more."""
    started = time.perf_counter()
    worker = EncoderWorker(spec, threads=threads)
    try:
        await worker.encode(image)
        first_s, computed_s = time.perf_counter() - started, _computed_s(worker.process_id)
        for _ in range(5):
            await worker.encode(image)
        return first_s, computed_s, measure.peak_megabytes(worker.process_id) or 0.0
    finally:
        await worker.close()


def _computed_s(process: int | None) -> float:
    """Seconds of processor time that a process has had, its start included."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user and system, proc(5)


async def _each_ms(spec: str, image: bytes, threads: int, *, is_busy: bool) -> float:
    """The median milliseconds of an image, alone or beside a busy neighbour."""
    worker = EncoderWorker(spec, threads=threads)
    neighbour = None
    try:
        await worker.encode(image)
        if is_busy:
            neighbour = await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass")
        times = []
        for _ in range(TIMES):
            started = time.perf_counter()
            await worker.encode(image)
            times.append(1000 * (time.perf_counter() - started))
        return median(times)
    finally:
        if neighbour is not None:
            neighbour.kill()
            await neighbour.wait()
        await worker.close()


async def measured() -> Table:
    """One line for each process."""
    image = any_image(vit_s16())
    lines = []
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "vit-s.onnx"
        export(SPEC, file, "int8", None)
        for name, spec, threads in (
            ("ONNX Runtime, INT8", f"onnx:{file}", 1),
            ("ONNX Runtime, INT8", f"onnx:{file}", 2),
            ("torch, float32", SPEC, 1),
        ):
            starts = [await _started(spec, image, threads) for _ in range(STARTS)]
            alone = await _each_ms(spec, image, threads, is_busy=False)
            busy = await _each_ms(spec, image, threads, is_busy=True)
            lines.append(
                [
                    name,
                    f"{threads}",
                    f"{max(megabytes for _, _, megabytes in starts):.0f}",
                    f"{min(first_s for first_s, _, _ in starts):.2f}",
                    f"{min(computed_s for _, computed_s, _ in starts):.2f}",
                    f"{alone:.0f}",
                    f"{busy:.0f}",
                    f"{busy / alone:.2f}",
                ]
            )
    return Table(
        f"A worker with a ViT-S/16, load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores when it ended",
        [
            "process",
            "threads",
            "MB at most",
            "s to the first features",
            "of those computed",
            "ms",
            "ms beside a busy core",
            "×",
        ],
        lines,
    )


if __name__ == "__main__":
    print(asyncio.run(measured()).markdown())
