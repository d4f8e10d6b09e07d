"""What several tests of the encoder want: the bundled model, and pictures for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from edgecache.encoder import vit_file
from edgecache.encoder.runtimes import Array
from edgecache.encoder.spec import TINY_WEIGHTS
from edgecache.encoder.vit import VisionTransformer

PHOTOS = Path(__file__).parent.parent.parent / "docs" / "photos"


@pytest.fixture
def one_thread() -> None:
    """Threads that wait for each other beside other work make small models ten times as slow."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model() -> VisionTransformer:
    torch.set_num_threads(1)
    return vit_file.model_of(TINY_WEIGHTS.read_bytes())


@pytest.fixture(scope="session")
def pictures() -> Array:
    """24 pictures as the bundled model takes them: smooth patterns, from plain to busy."""
    chance = np.random.default_rng(0)
    made = []
    for index in range(24):
        side = (2, 4, 8, 16)[index % 4]
        coarse = torch.from_numpy(chance.normal(size=(1, 3, side, side)).astype(np.float32))
        made.append(torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").numpy()[0])
    return np.stack(made)
