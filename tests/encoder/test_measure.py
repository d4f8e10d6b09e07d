"""The rows of a table: what they say of towers whose speed and errors are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgecache.encoder import candidates, measure, plot
from edgecache.encoder.measure import Row
from edgecache.encoder.runtimes import Array
from edgecache.encoder.vit import VitShape


class Clock:
    """Moves when a tower works, and no other time."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow:
    """Takes a given time, and the first of its rounds twice that."""

    def __init__(self, clock: Clock, seconds: float, order: list[str], name: str) -> None:
        self.clock, self.seconds, self.order, self.name = clock, seconds, order, name

    def __call__(self, pixels: Array) -> Array:
        self.order.append(self.name)
        is_late = self.order.count(self.name) <= 1 + 8 // len(pixels)  # the warm-up, and a round over eight images
        self.clock.now += self.seconds * len(pixels) * (1 + is_late)
        return pixels


@pytest.mark.parametrize("batch", [1, 4])
def test_times_are_the_fastest_per_image_and_towers_take_turns(batch: int) -> None:
    clock = Clock()
    order: list[str] = []
    towers = {name: Slow(clock, seconds, order, name) for name, seconds in (("fast", 0.001), ("slow", 0.003))}
    times = measure.milliseconds(towers, np.zeros((8, 1), np.float32), batch=batch, rounds=2, clock=clock)
    assert times == {"fast": pytest.approx(1), "slow": pytest.approx(3)}
    assert order == ["fast", "slow"] * (1 + 2 * 8 // batch)


def test_features_of_a_last_batch_that_is_short_are_there_too() -> None:
    pixels = np.arange(7, dtype=np.float32)[:, None]
    assert np.array_equal(measure.features_of(lambda batch: batch * 2, pixels, batch=3), pixels * 2)


def test_fidelity_is_measured_against_the_plain_features() -> None:
    chance = np.random.default_rng(0)
    plain = chance.normal(size=(10, 4, 8)).astype(np.float32)
    exact = measure.fidelity(Row("", 1.0), plain, plain, None, None)
    assert exact.cosine_min == pytest.approx(1)
    assert exact.top1 is None
    wrong = plain.copy()
    wrong[3] *= -1
    labels = (plain.mean(axis=(1, 2)) > 0).astype(np.int64)
    row = measure.fidelity(Row("", 1.0), wrong, plain, labels, lambda pooled: (pooled.mean(dim=1) > 0).long())
    assert row.cosine_mean == pytest.approx(0.8)
    assert row.cosine_min == pytest.approx(-1)
    assert row.top1 == pytest.approx(0.9)


def test_speed_is_told_beside_the_plain_model_and_the_strongest_runtime() -> None:
    rows = measure.relate([Row("plain", 8.0), Row("runtime", 4.0), Row("merged", 2.0)], [True, True, False])
    assert [row.speedup for row in rows] == [1, 2, 4]
    assert [row.over_strongest for row in rows] == [0.5, 1, 2]


def test_a_meter_that_is_there_is_read_and_none_is_none(tmp_path: Path) -> None:
    meter = tmp_path / "intel-rapl:0" / "energy_uj"
    meter.parent.mkdir()
    meter.write_text("1000")
    assert measure.energy_meters(tmp_path) == [meter]

    def tower(pixels: Array) -> Array:
        meter.write_text(str(int(meter.read_text()) + 5000))
        return pixels

    assert measure.millijoules(tower, np.zeros((4, 1), np.float32), [meter]) == pytest.approx(5)
    assert measure.millijoules(tower, np.zeros((4, 1), np.float32), []) is None


def test_a_table_has_no_blank_cells_and_a_plot_is_drawn(tmp_path: Path) -> None:
    rows = [
        Row("torch float32", 10.0, cosine_mean=1.0),
        Row("openvino float32, merge 4", 5.0, cosine_mean=0.99, top1=0.5),
        Row("onnx int8", 7.0, cosine_mean=0.98),
    ]
    cells = [cell.strip() for line in measure.table(rows).splitlines() for cell in line.strip("|").split("|")]
    assert all(cells)
    assert plot.front(rows, [row.cosine_mean for row in rows]) == [1, 0]
    for points in (None, [0.0, -40.0, 0.5]):
        plot.draw(rows, "title", tmp_path / "p.png", points)
        assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "p.png").unlink()
    written = json.loads(measure.as_json(rows, {"encoder": "e"}))
    assert written["results"][1]["top1"] == 0.5


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("onnx int8", plot.ALONE),
        ("onnx int8, merge 4, bridged", "fewer tokens"),
        ("onnx int8, cascade 112, bridged, at 0.9", "seen small if that will do"),
        ("onnx int8, merge 4, exits 2,3, bridged, at 95% of the classes", plot.TOGETHER),
        ("onnx int8, bridged", plot.OTHER),
    ],
)
def test_a_plot_tells_kinds_of_shortcuts_apart(name: str, kind: str) -> None:
    assert plot.kind_of(name) == kind


@pytest.mark.parametrize("shape", [VitShape(), VitShape(image_side=224, patch_side=16, stem=(), depth=12)])
def test_every_candidate_fits_its_model(shape: VitShape) -> None:
    needed = list(range(shape.depth))
    made = [*candidates.shortcuts_alone(shape, needed), *candidates.combinations(shape)]
    assert len(set(map(str, made))) == len(made)
    for options in made:
        options.shortcuts.check(shape.image_side, shape.patch_side, shape.depth)
        for side in (options.small_side,) if options.small_side else ():
            replace(options.shortcuts, side=side).check(shape.image_side, shape.patch_side, shape.depth)


@pytest.mark.parametrize(
    ("depth", "exits"),
    [(1, []), (2, [(1,)]), (4, [(2,), (1, 2, 3), (2, 3)]), (12, [(6,), (3, 6, 9), (6, 8, 9, 11)])],
)
def test_an_image_may_leave_half_way_after_each_quarter_or_late(depth: int, exits: list[tuple[int, ...]]) -> None:
    assert candidates.exits_of(depth) == exits
