"""`edgecache-encoder train --teacher SPEC`: a smaller encoder learns from a larger one, on pictures without labels."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..protocol.errors import InvalidValue
from . import measure, vit_file
from .distill import Distillation, Recipe, student_of
from .export_command import torch_encoder
from .image_set import ImageSet
from .runtimes import Array
from .runtimes.torch_graph import TorchGraph
from .towers import Tower
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
) -> str:
    """Write the student to `out`, and return a line that says how near it came and how much faster it is."""
    if out.suffix != SUFFIX:
        raise InvalidValue(f"{out}: a student's name ends in {SUFFIX}")
    if not minutes > 0:
        raise InvalidValue(f"--minutes {minutes:g}: expected above 0")
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
    before = _likeness(student, model, held_out.pixels)
    steps = _teach(Distillation(model, student, recipe), torch.from_numpy(learnt.pixels), minutes)
    vit_file.save(student, out, how)
    after = _likeness(student, model, held_out.pixels)
    towers = {"teacher": _tower(model), "student": _tower(student)}
    ms = measure.milliseconds(towers, held_out.pixels[:_TIMED_IMAGES])
    return (
        f"{out}: {student.shape.depth} blocks of {student.shape.dim}, "
        f"{sum(weight.numel() for weight in student.parameters()):,} weights, {zeros_share(student):.0%} of the linear "
        f"ones zero; {steps} steps; cosine to the teacher {before} at first, now {after}, on {len(held_out.pixels)} "
        f"images held out; {ms['student']:.1f} ms an image, the teacher {ms['teacher']:.1f}"
    )


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


def _likeness(student: VisionTransformer, teacher: VisionTransformer, pixels: Array) -> str:
    if student.shape.dim != teacher.shape.dim:
        return "(of another width)"
    with torch.inference_mode():
        made, wanted = (
            torch.cat([model(chunk) for chunk in torch.split(torch.from_numpy(pixels), 32)]).flatten(1)
            for model in (student, teacher)
        )
    return f"{float(F.cosine_similarity(made, wanted).mean()):.4f}"


def _tower(model: VisionTransformer) -> Tower:
    graph = TorchGraph(model)
    return lambda pixels: graph.run(pixels)[0]
