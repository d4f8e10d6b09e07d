"""`edgecache-encoder bench`: one table of what each runtime and each shortcut gives and costs on this device."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..protocol.errors import InvalidValue
from . import candidates, measure
from .build import Built, build, through
from .depth.exits import Asked, layer_agreement
from .export_command import torch_encoder
from .image_set import ImageSet
from .measure import Row
from .options import Options
from .runtimes import Array, Runtime
from .torch_encoder import TorchEncoder
from .vit import VisionTransformer

TIMED_IMAGES = 24
Say = Callable[[str], None]


@dataclass
class Bench:
    """A plain encoder, images to fit on and others to measure on, and what has been measured so far."""

    spec: str
    encoder: TorchEncoder
    model: VisionTransformer
    fitted: ImageSet
    measured: ImageSet
    threads: int
    batch: int
    say: Say

    def __post_init__(self) -> None:
        torch.set_num_threads(self.threads)
        self.plain_fitted = through(self.model, torch.from_numpy(self.fitted.pixels)).numpy()
        self.plain_measured = through(self.model, torch.from_numpy(self.measured.pixels)).numpy()
        self.classify = measure.classifier_for(self.model, self.fitted, self.plain_fitted)

    @classmethod
    def prepare(
        cls, spec: str, images: Path, *, count: int, threads: int, batch: int, say: Say, fitted_count: int = 0
    ) -> Bench:
        """Load the encoder and `count` images; a third, or `fitted_count`, are fitted on and the rest measured."""
        encoder = torch_encoder(spec)
        if not isinstance(encoder.model, VisionTransformer):
            raise InvalidValue(f"encoder {spec!a} is no vision transformer of ours")
        how, side = encoder.preprocessing, encoder.model.shape.image_side
        if (how.height, how.width) != (side, side):
            raise InvalidValue(f"encoder {spec!a} sees {how.width} × {how.height} pixels, expected {side} × {side}")
        if images.suffix == ".npz":  # it has a part to fit on
            fitting = min(fitted_count or max(1, count // 3), count - 1)
            fitted = ImageSet.read(images, encoder.preprocessing, max(1, fitting), "train")
            measured = ImageSet.read(images, encoder.preprocessing, max(1, count - fitting), "test")
        else:
            everything = ImageSet.read(images, encoder.preprocessing, count)
            if (there := len(everything.pixels)) < 3:
                raise InvalidValue(f"{there} images, at least 3: some to fit on and some to measure")
            fitted, measured = everything.split(min(fitted_count or max(1, there // 3), there - 1))
        say(f"{len(fitted.pixels)} images to fit on, {len(measured.pixels)} others to measure")
        return cls(spec, encoder, encoder.model, fitted, measured, threads, batch, say)

    @cached_property
    def agreement(self) -> list[float]:
        """Of each block, how alike its tokens are before and after it, by their mean cosine."""
        return layer_agreement(self.model, torch.from_numpy(self.fitted.pixels[:64]))

    @property
    def least_needed(self) -> list[int]:
        """Blocks by how little they change, the least first."""
        return sorted(range(len(self.agreement)), key=lambda block: -self.agreement[block])

    def build(self, options: Options, cosine_min: float) -> Built:
        """Make one configuration, fitted on the images for that."""
        return build(
            self.model,
            options,
            self.fitted.pixels,
            threads=self.threads,
            batch=self.batch,
            asked=Asked(cosine_min),
            plain=self.plain_fitted,
        )

    def built(self, all_options: Iterable[Options], cosine_min: float) -> Iterator[Built]:
        """Make configurations, and say which could not be: some graphs are beyond some runtimes."""
        for options in all_options:
            try:
                yield self.build(options, cosine_min)
            except InvalidValue as error:
                self.say(f"left out: {options}: {str(error)[:200]}")

    def rows(self, all_built: Sequence[Built], *, with_memory: bool, rounds: int = 3) -> list[Row]:
        """Measure configurations side by side; the first is the plain one."""
        towers = {str(index): built.tower for index, built in enumerate(all_built)}
        count = max(self.batch, TIMED_IMAGES // self.batch * self.batch)
        timed = self.measured.pixels[np.arange(count) % len(self.measured.pixels)]
        times = measure.milliseconds(towers, timed, batch=self.batch, rounds=rounds)
        meters, rows = measure.energy_meters(), []
        for index, built in enumerate(all_built):
            row = Row(str(built.options), times[str(index)], megabytes=self._megabytes(built))
            made = measure.features_of(built.tower, self.measured.pixels, self.batch)
            row = measure.fidelity(row, made, self.plain_measured, self.measured.labels, self.classify)
            row = replace(row, millijoules=measure.millijoules(built.tower, timed, meters) if self.batch == 1 else None)
            can_be_kept = built.files or not built.options.is_fitted
            if with_memory and self.batch == 1 and can_be_kept:
                row = asyncio.run(
                    measure.in_a_node(row, self.spec, self.encoder, built, any_image(self.encoder), self.threads)
                )
            self.say(f"  {row.ms:8.2f} ms  cosine {row.cosine_mean:.4f}  {row.name}")
            rows.append(row)
        return rows

    def _megabytes(self, built: Built) -> float:
        weights = sum(weight.numel() * 4 for weight in self.model.state_dict().values())
        return (built.model_bytes or weights) / 1e6

    def about(self) -> dict[str, Any]:
        """What the rows were measured on."""
        return measure.about(self.encoder, len(self.measured.pixels), threads=self.threads, batch=self.batch)


def strongest_of(all_built: Sequence[Built], rows: Sequence[Row], cosine_min: float) -> Options:
    """The fastest runtime alone that keeps the fidelity; the plain one always does."""
    kept = [
        (row.ms, index)
        for index, (built, row) in enumerate(zip(all_built, rows, strict=True))
        if built.options.is_whole and (row.cosine_mean >= cosine_min or index == 0)
    ]
    return all_built[min(kept)[1]].options


def bench(
    spec: str,
    images: Path,
    *,
    count: int,
    threads: int,
    batch: int,
    cosine_min: float,
    with_memory: bool,
    only_runtime: Runtime | None = None,
) -> tuple[list[Row], dict[str, Any]]:
    """Measure everything that makes sense for this encoder on this device."""
    say: Say = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    work = Bench.prepare(spec, images, count=count, threads=threads, batch=batch, say=say)
    installed = candidates.installed_runtimes()
    say(f"runtimes: {', '.join(installed)}")
    alone = list(work.built(candidates.runtimes_alone(installed), cosine_min))
    first = work.rows(alone, with_memory=False)
    best = strongest_of(alone, first, cosine_min)
    say(f"strongest alone: {best}; every shortcut on it")
    shortcuts = [
        *candidates.shortcuts_alone(work.model.shape, work.least_needed),
        *candidates.combinations(work.model.shape),
    ]
    if batch > 1:  # one by one is what exits and routes are for
        shortcuts = [options for options in shortcuts if not options.exits and not options.small_side]
    there = [candidates.on(options, best.runtime, best.precision) for options in shortcuts]
    built = [*alone, *work.built(there, cosine_min)]
    say("measured side by side:")
    rows = work.rows(built, with_memory=with_memory)
    return measure.relate(rows, [one.options.is_whole for one in built]), work.about()


def any_image(encoder: TorchEncoder) -> bytes:
    """A picture file of the size that the encoder takes."""
    side = max(encoder.preprocessing.height, encoder.preprocessing.width)
    noise: Array = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray(noise.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
