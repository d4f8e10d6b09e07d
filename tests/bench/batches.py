"""Several images at once, and several threads: what do they gain over one by one?

    python -m tests.bench.batches --images cifar10_jpeg.npz [--encoder vit:FILE.safetensors] [--fitted N] [--timed N]

Of plain torch, of ONNX Runtime in INT8, and of same-exit batching: a batch of torch in which those who are sure leave
and the others go on together (`towers.Exiting`). Milliseconds on the clock, so the machine is to be quiet.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch
from edgecache.encoder import candidates, measure
from edgecache.encoder.bench_command import Bench
from edgecache.encoder.build import build
from edgecache.encoder.depth.exits import Asked
from edgecache.encoder.options import Options, Precision
from edgecache.encoder.runtimes import Runtime
from edgecache.encoder.shortcuts import Shortcuts

from .report import Table

BATCHES = (1, 8)
ASKED = Asked(0.0, 0.95)


def measured(work: Bench) -> Table:
    """Milliseconds per image of each configuration, by batch and threads."""
    exits = candidates.exits_of(work.model.shape.depth)[-1]
    configurations = {
        "torch float32": Options(),
        "torch float32, same-exit batching": Options(shortcuts=Shortcuts(is_bridged=True), exits=exits),
        "onnx int8": Options(Runtime.ONNX, Precision.INT8),
    }
    columns = [(threads, batch) for threads in sorted({1, os.cpu_count() or 1}) for batch in BATCHES]
    rows: dict[str, list[str]] = {name: [] for name in configurations}
    thresholds: tuple[float, ...] = ()
    for threads, batch in columns:
        torch.set_num_threads(threads)
        towers = {}
        for name, options in configurations.items():
            if options.exits:  # found once: fitted anew they are the same
                options = Options(shortcuts=options.shortcuts, exits=exits, exit_sureness=thresholds)
            built = build(
                work.model, options, work.fitted.pixels, threads=threads, batch=batch, asked=ASKED,
                plain=work.plain_fitted,
            )  # fmt: skip
            thresholds = built.options.exit_sureness or thresholds
            towers[name] = built.tower
        for name, ms in measure.milliseconds(towers, work.measured.pixels, batch=batch).items():
            rows[name].append(f"{ms:.1f}")
        work.say(f"{threads} threads, batch {batch}: done")
    return Table(
        f"Milliseconds per image of {work.encoder.identity.name}, on the clock",
        ["", *(f"{threads} thread{'s' * (threads > 1)}, batch {batch}" for threads, batch in columns)],
        [[name, *cells] for name, cells in rows.items()],
    )


def main() -> None:
    """Read the command line, measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.batches", description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--encoder", default="edgecache/tiny")
    parser.add_argument("--fitted", type=int, default=100, help="images that exits are fitted on")
    parser.add_argument("--timed", type=int, default=32, help="images that are timed")
    options = parser.parse_args()
    work = Bench.prepare(
        options.encoder, options.images, count=options.fitted + options.timed, threads=1, batch=1,
        say=lambda line: print(line, file=sys.stderr, flush=True), fitted_count=options.fitted,
    )  # fmt: skip
    print(measured(work).markdown())


if __name__ == "__main__":
    main()
