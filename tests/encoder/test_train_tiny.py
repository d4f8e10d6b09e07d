"""The training script on a handful of pictures: it trains, saves, resumes and measures."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edgecache.encoder import spec, train_tiny, vit_file
from edgecache.encoder.train_tiny import Labelled, Training
from edgecache.encoder.vit import VisionTransformer, VitShape
from PIL import Image

SMALL = VitShape(stem=(4, 6, 8), dim=24, depth=1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten plain colours with some noise, as an npz of JPEG files."""
    chance = np.random.default_rng(0)
    parts: dict[str, Any] = {}
    for part, count in (("train", 64), ("test", 32)):
        labels, files = chance.integers(0, 10, count), []
        for label in labels:
            pixels = chance.normal(label * 25, 10, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG")
            files.append(file.getvalue())
        parts[f"{part}_jpeg"] = np.frombuffer(b"".join(files), np.uint8)
        parts[f"{part}_off"] = np.cumsum([0, *map(len, files)])
        parts[f"{part}_y"] = labels
    np.savez(tmp_path / "colours.npz", **parts)
    return tmp_path / "colours.npz"


def test_training_sees_what_the_node_would_hand_to_the_model(data: Path) -> None:
    train = Labelled.read(data, "train")
    assert train.pixels.shape == (64, 3, spec.TINY_PREPROCESSING.height, spec.TINY_PREPROCESSING.width)
    assert train.labels.shape == (64,)
    assert float(train.pixels.float().abs().max()) < 4


def test_pictures_are_moved_and_mirrored_but_stay_what_they_are() -> None:
    columns = torch.arange(32.0).expand(200, 3, 32, 32).contiguous()
    varied = train_tiny._varied(columns, torch.Generator().manual_seed(0))
    steps = varied[:, 0, 16, 16] - varied[:, 0, 16, 15]
    assert set(steps.tolist()) == {-1.0, 1.0}
    assert len(set(varied[:, 0, 16, 16].tolist())) > 6


def test_a_short_run_lowers_the_loss_and_leaves_weights_that_load(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_tiny, "VitShape", lambda: SMALL)
    out = tmp_path / "small.safetensors"
    command = ["train_tiny", "--data", str(data), "--out", str(out), "--minutes", "0.02", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", command)
    train_tiny.main()
    assert vit_file.model_of(out.read_bytes()).shape == SMALL
    printed = capsys.readouterr().out
    for line in ("32 held-out images, top-1 of the head", "ridge probe on mean tokens", "k-NN on mean tokens"):
        assert line in printed


def test_a_run_that_was_cut_is_taken_up_where_it_was(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_tiny, "CHECKPOINT_EVERY_S", 0.0)
    train = Labelled.read(data, "train")
    first = Training(VisionTransformer(SMALL), 0.01, tmp_path / "run.checkpoint")
    first.run(train)
    again = Training(VisionTransformer(SMALL), 0.01, tmp_path / "run.checkpoint")
    again.resume()
    assert again.steps == first.steps
    for name, weight in first.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight), name
