"""`edgecache-encoder train --teacher SPEC`: a smaller encoder learns from a larger one, on pictures without labels."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..protocol.errors import InvalidValue
from . import measure, vit_file
from .distill import Distillation, Recipe, student_of
from .export_command import torch_encoder
from .image_set import ImageSet
from .measure import Row
from .runtimes import Array
from .runtimes.torch_graph import TorchGraph
from .towers import Single, Tower
from .vit import VisionTransformer
from .weights.numbers import zeros_share

HELD_OUT_MAX = 200
SUFFIX = ".safetensors"
_SAY_EVERY_S = 30.0
_TIMED_IMAGES = 8


@dataclass(frozen=True, slots=True)
class Student:
    """How large the student is; 0: as the teacher, but for the depth, which is then half."""

    depth: int = 0
    dim: int = 0
    heads: int = 0


def train(
    teacher: str, images: Path, out: Path, size: Student, recipe: Recipe, *, minutes: float, count: int, threads: int
) -> tuple[str, list[Row], dict[str, Any]]:
    """Write the student to `out`: a line that says what it is; teacher and student side by side, and on what.

    A student of another width has no cosine to its teacher: NaN.
    """
    if out.suffix != SUFFIX:
        raise InvalidValue(f"{out}: a student's name ends in {SUFFIX}")
    torch.set_num_threads(threads)
    encoder = torch_encoder(teacher)
    model, how = encoder.model, encoder.preprocessing
    if not isinstance(model, VisionTransformer):
        raise InvalidValue(f"encoder {teacher!a} is no vision transformer of ours")
    side = model.shape.image_side
    if (how.height, how.width) != (side, side):
        raise InvalidValue(f"encoder {teacher!a} sees {how.width} × {how.height} pixels, expected {side} × {side}")
    pictures = ImageSet.read(images, how, count, "train")
    if len(pictures.pixels) < 2:
        raise InvalidValue(f"{len(pictures.pixels)} images, at least 2: some to learn from and some to measure")
    held_out, learnt = pictures.split(max(1, min(HELD_OUT_MAX, len(pictures.pixels) // 10)))
    student = student_of(model, size.depth or max(1, model.shape.depth // 2), size.dim, size.heads)
    before = _likened(Row("", 0.0), _tower(student), _tower(model), held_out.pixels).cosine_mean
    steps = _teach(Distillation(model, student, recipe), torch.from_numpy(learnt.pixels), minutes)
    vit_file.save(student, out, how)
    rows = _side_by_side(model, student, held_out.pixels)
    after = rows[1]
    line = (
        f"{out}: {student.shape.depth} blocks of {student.shape.dim}, {_weights(student):,} weights, "
        f"{zeros_share(student):.0%} of the linear ones zero; {steps} steps; cosine to the teacher {before:.4f} at "
        f"first, now {after.cosine_mean:.4f}, on {len(held_out.pixels)} images held out; {after.ms:.1f} ms an image, "
        f"the teacher {rows[0].ms:.1f}"
    )
    return line, rows, measure.about(encoder, len(held_out.pixels), threads=threads)


def _teach(lessons: Distillation, pixels: Tensor, minutes: float) -> int:
    generator = torch.Generator().manual_seed(0)
    started = said = time.perf_counter()
    steps = 0
    while (progress := (time.perf_counter() - started) / (60 * minutes)) < 1:
        chosen = pixels[torch.randint(len(pixels), (lessons.recipe.batch,), generator=generator)]
        mirrored = torch.rand(len(chosen), 1, 1, 1, generator=generator) < 0.5
        losses = lessons.step(torch.where(mirrored, chosen.flip(3), chosen), progress)
        steps += 1
        if time.perf_counter() - said > _SAY_EVERY_S:
            said = time.perf_counter()
            told = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
            print(f"{progress:4.0%}, step {steps}: {told}", file=sys.stderr, flush=True)
    lessons.finish()
    return steps


def _side_by_side(teacher: VisionTransformer, student: VisionTransformer, pixels: Array) -> list[Row]:
    names = {"teacher": teacher, "student": student}
    towers = {name: _tower(model) for name, model in names.items()}
    ms = measure.milliseconds(towers, pixels[:_TIMED_IMAGES])
    rows = [Row(name, ms[name], megabytes=4 * _weights(model) / 1e6) for name, model in names.items()]
    return measure.relate([rows[0], _likened(rows[1], towers["student"], towers["teacher"], pixels)], [True, False])


def _likened(row: Row, student: Tower, teacher: Tower, pixels: Array) -> Row:
    made, wanted = (measure.features_of(tower, pixels, 32) for tower in (student, teacher))
    if made.shape != wanted.shape:
        return replace(row, cosine_mean=math.nan, cosine_min=math.nan, cosine_token=math.nan)
    return measure.fidelity(row, made, wanted, None, None)


def _tower(model: VisionTransformer) -> Tower:
    return Single(TorchGraph(model))


def _weights(model: VisionTransformer) -> int:
    return sum(weight.numel() for weight in model.parameters())
