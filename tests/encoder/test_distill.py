"""A student that is its teacher has nothing to learn; another one comes nearer; zeros and rounding are as asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from edgecache.encoder import cli, vit_file
from edgecache.encoder.distill import Distillation, Recipe, round_linears, softened, sparsity_at, student_of, told_by
from edgecache.encoder.load import load
from edgecache.encoder.runtimes import Array
from edgecache.encoder.torch_encoder import TorchEncoder
from edgecache.encoder.vit import Block, VisionTransformer, VitShape
from edgecache.encoder.weights.numbers import zeros_share
from edgecache.protocol.errors import InvalidValue
from PIL import Image

pytestmark = pytest.mark.usefixtures("one_thread")

TEACHER = VitShape(stem=(), dim=24, depth=4, heads=3, classes=5, class_tokens=1)


def teacher() -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(TEACHER).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def taught(recipe: Recipe, student: VisionTransformer, steps: int = 40) -> tuple[VisionTransformer, list[float]]:
    lessons = Distillation(teacher(), student, recipe)
    pixels = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sums = [
        sum(lessons.step(pixels[torch.arange(step * 8, step * 8 + 8) % 64], step / steps).values())
        for step in range(steps)
    ]
    return lessons.finish(), sums


def test_a_student_that_is_its_teacher_is_told_nothing_new() -> None:
    model, pixels = teacher(), torch.randn(2, 3, 32, 32)
    lessons = Distillation(model, student_of(model, 4), Recipe())
    with torch.no_grad():
        losses = lessons.losses(told_by(lessons.student, pixels), told_by(model, pixels))
        assert torch.allclose(told_by(model, pixels).tokens, model(pixels), atol=1e-6)
    assert sorted(losses) == ["attention", "features", "logits"]
    assert all(abs(float(loss)) < 1e-5 for loss in losses.values())


@pytest.mark.parametrize("size", [{"depth": 2}, {"depth": 3, "dim": 16, "heads": 2}])
def test_lessons_bring_a_student_nearer(size: dict[str, int]) -> None:
    _, sums = taught(Recipe(learning_rate=2e-3), student_of(teacher(), **size))
    assert np.mean(sums[-8:]) < 0.8 * np.mean(sums[:8])


def test_a_student_as_wide_starts_from_evenly_chosen_blocks() -> None:
    model = teacher()
    student = student_of(model, 2)
    for made, index in zip(student.blocks, (0, 2), strict=True):
        mine, theirs = made.state_dict(), model.blocks[index].state_dict()
        assert all(torch.equal(weight, theirs[name]) for name, weight in mine.items())
    assert torch.equal(student.position, model.position)


def test_it_is_pruned_on_the_way_and_its_zeros_stay() -> None:
    student, sums = taught(Recipe(sparsity=0.5, learning_rate=2e-3), student_of(teacher(), 2))
    assert zeros_share(student) == pytest.approx(0.5, abs=0.02)
    assert sums[-1] < max(sums)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.1, 0.0), (0.35, 0.7), (0.6, 0.8), (1.0, 0.8)])
def test_pruning_is_fast_at_first_and_done_before_the_end(progress: float, share: float) -> None:
    assert sparsity_at(progress, 0.8) == pytest.approx(share)


def test_in_the_last_third_it_computes_as_int8_will_and_still_learns() -> None:
    student = student_of(teacher(), 2)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = student(pixels)
        round_linears(student)
        rounded = student(pixels)
    first = student.blocks[0]
    assert isinstance(first, Block)
    weight = first.attention.out.weight
    levels = weight / (weight.abs().amax(dim=1, keepdim=True) / 127)
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert 1e-5 < float((rounded - before).abs().max()) < 0.5
    kept, sums = taught(Recipe(is_rounded=True, learning_rate=2e-3), student_of(teacher(), 2))
    assert np.mean(sums[-5:]) < np.mean(sums[:5])
    assert "parametrizations" not in " ".join(kept.state_dict())


def test_temperature_softens_and_keeps_the_gradients_size() -> None:
    logits, wanted = torch.tensor([[1.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 1.0]])
    sizes = []
    for temperature in (4.0, 8.0):
        (gradient,) = torch.autograd.grad(softened(logits, wanted, temperature), logits)
        sizes.append(float(gradient.abs().sum()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
    assert float(softened(wanted, wanted, 3.0)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"sparsity": 1.0}, {"features": -1.0}, {"batch": 0}, {"learning_rate": 0.0}]
)
def test_a_recipe_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidValue, match="expected"):
        Recipe(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [{"depth": 0}, {"depth": 5}, {"depth": 2, "dim": 16, "heads": 3}])
def test_a_student_that_cannot_be_is_refused(size: dict[str, int]) -> None:
    with pytest.raises(InvalidValue, match="a student of"):
        student_of(teacher(), **size)


def test_logits_alone_want_a_head() -> None:
    model = VisionTransformer(replace(TEACHER, classes=0)).eval()
    lessons = Distillation(model, student_of(model, 2), Recipe(features=0, attention=0))
    with pytest.raises(InvalidValue, match="without a head"):
        lessons.step(torch.zeros(1, 3, 32, 32), 0.0)


def test_the_command_makes_an_encoder_that_a_node_can_load(
    tmp_path: Path, pictures: Array, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, picture in enumerate(pictures[:12]):
        levels = ((picture.transpose(1, 2, 0) + 2) * 64).clip(0, 255).astype(np.uint8)
        Image.fromarray(levels).save(tmp_path / f"{index}.png")
    out = tmp_path / "student.safetensors"
    command = ["train", "--encoder", "edgecache/tiny", "--images", str(tmp_path), "--out", str(out)]
    rows = tmp_path / "rows.json"
    assert cli.main([*command, "--minutes", "0.01", "--batch", "4", "--json", str(rows)]) == 0
    assert "2 blocks of 192" in capsys.readouterr().out
    teacher, student = json.loads(rows.read_bytes())["results"]
    assert (teacher["name"], student["name"]) == ("teacher", "student")
    assert student["megabytes"] < teacher["megabytes"]
    assert 0 < student["cosine_mean"] < 1
    made = load(f"vit:{out}")
    assert isinstance(made, TorchEncoder)
    assert (str(made.identity), made.shape) == ("vit:student@local", (64, 192))
    (features,) = made.encode_batch([(tmp_path / "0.png").read_bytes()])
    assert np.isfinite(np.asarray(features)).all()
    assert cli.main([*command[:-1], str(tmp_path / "student.bin")]) == 1
    assert "ends in .safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("depth", [-1, 10**9])
def test_a_header_that_asks_for_too_much_is_refused(depth: int, tmp_path: Path) -> None:
    model = VisionTransformer(VitShape(stem=(), dim=24, depth=1))
    model.shape = replace(model.shape, depth=depth)
    vit_file.save(model, tmp_path / "w.safetensors")
    with pytest.raises(InvalidValue, match=f"a model of {depth} blocks, at most 512"):
        load(f"vit:{tmp_path / 'w.safetensors'}")


def test_a_file_that_does_not_say_how_pixels_are_prepared_is_refused(tmp_path: Path) -> None:
    vit_file.save(VisionTransformer(VitShape(stem=(), dim=24, depth=1)), tmp_path / "w.safetensors")
    with pytest.raises(InvalidValue, match="how pixels are prepared"):
        load(f"vit:{tmp_path / 'w.safetensors'}")
    with pytest.raises(InvalidValue, match=r"none\.safetensors cannot be read"):
        load(f"vit:{tmp_path / 'none.safetensors'}")
