"""The bundled encoder: the same image gives the same bits, and weights that are not its own are refused."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from edgecache.encoder import spec, tiny, vit_file
from edgecache.encoder.torch_encoder import TorchEncoder
from edgecache.encoder.vit import VisionTransformer, VitShape
from edgecache.protocol.errors import InvalidValue, UndecodableImage
from numpy.typing import NDArray
from PIL import Image


@pytest.fixture(scope="module")
def encoder() -> TorchEncoder:
    return tiny.load()


def image(seed: int, side: int = 48) -> bytes:
    """A blurred random picture as a PNG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def features_of(encoder: TorchEncoder, images: list[bytes]) -> list[NDArray[np.float32]]:
    made = [features for features in encoder.encode_batch(images) if isinstance(features, np.ndarray)]
    assert len(made) == len(images)
    return made


def test_it_is_what_its_description_says(encoder: TorchEncoder) -> None:
    known = spec.identity_of("edgecache/tiny")
    assert known is not None
    assert (encoder.identity, encoder.shape) == (known.identity, known.shape)
    (features,) = features_of(encoder, [image(0)])
    assert features.shape == known.shape
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


def test_features_are_the_same_bits_whatever_else_is_in_the_batch(encoder: TorchEncoder) -> None:
    images = [image(seed) for seed in range(9)]
    alone = [features_of(encoder, [one])[0] for one in images]
    for batch in (images, images[::-1], images[:2], images * 2):
        for one, features in zip(batch, features_of(encoder, batch), strict=True):
            assert np.array_equal(features, alone[images.index(one)])


def test_garbage_does_not_spoil_the_good_images_beside_it(encoder: TorchEncoder) -> None:
    before, wrong, after = encoder.encode_batch([image(1), b"garbage", image(2)])
    assert isinstance(wrong, UndecodableImage)
    assert isinstance(before, np.ndarray)
    assert isinstance(after, np.ndarray)
    assert np.array_equal(np.stack([before, after]), features_of(encoder, [image(1), image(2)]))


def test_different_images_have_different_features(encoder: TorchEncoder) -> None:
    one, other = features_of(encoder, [image(3), image(4)])
    assert not np.array_equal(one, other)


def test_a_jpeg_decoded_small_has_nearly_the_features_of_the_whole(encoder: TorchEncoder) -> None:
    picture, file = Image.open(io.BytesIO(image(5, side=1024))), io.BytesIO()
    picture.save(file, "JPEG", quality=95)
    small, whole = (made.ravel() for made in features_of(encoder, [file.getvalue(), image(5, side=1024)]))
    assert small @ whole / np.linalg.norm(small) / np.linalg.norm(whole) > 0.99


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = VisionTransformer(VitShape(stem=(4, 6, 8), dim=24, depth=1)).eval()
    vit_file.save(model, tmp_path / "w.safetensors")
    again = vit_file.model_of((tmp_path / "w.safetensors").read_bytes())
    assert again.shape == model.shape
    pixels = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(again(pixels), model(pixels), atol=5e-3)  # float16 lies between


def test_the_weights_in_the_package_are_float16_and_at_most_8_mb() -> None:
    state = safetensors.torch.load_file(spec.TINY_WEIGHTS)
    assert {weight.dtype for weight in state.values()} == {torch.float16}
    assert spec.TINY_WEIGHTS.stat().st_size <= 8_000_000


def test_pickled_weights_are_refused_and_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (trap,)

    file = io.BytesIO()
    torch.save({"position": torch.zeros(1)}, file)
    for weights in (pickle.dumps(Trap()), file.getvalue()):
        with pytest.raises(InvalidValue, match="that are not its weights"):
            vit_file.model_of(weights)
    assert not trap.exists()


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, broken: float) -> None:
    model = VisionTransformer(VitShape(stem=(), dim=24, depth=1))
    assert isinstance(model.head, torch.nn.Linear)
    with torch.no_grad():
        model.head.bias[3] = broken
    vit_file.save(model, tmp_path / "w.safetensors")
    with pytest.raises(InvalidValue, match=r"1 of 10 weights in head\.bias are not finite"):
        vit_file.model_of((tmp_path / "w.safetensors").read_bytes())


@pytest.mark.parametrize("cut", [0, 4, 8, 100, 5000])
def test_truncated_weights_are_refused(cut: int) -> None:
    with pytest.raises(InvalidValue, match=f"{cut} bytes that are not its weights"):
        vit_file.model_of(spec.TINY_WEIGHTS.read_bytes()[:cut])


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"other": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(InvalidValue, match="that are not its weights"):
        vit_file.model_of((tmp_path / "w.safetensors").read_bytes())
