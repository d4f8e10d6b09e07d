"""Vision towers as transformers saves them: small ones, made here, with nothing fetched."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

transformers = pytest.importorskip("transformers")

import safetensors.torch  # noqa: E402
from edgecache.encoder import huggingface  # noqa: E402
from edgecache.encoder.preprocessing import prepared, preprocessing_of  # noqa: E402
from edgecache.encoder.vit import VisionTransformer  # noqa: E402
from edgecache.protocol.errors import EncoderUnavailable, InvalidValue, UndecodableImage  # noqa: E402
from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: E402

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SMALL, "image_size": 32, "patch_size": 8}
TEXT = {**SMALL, "vocab_size": 64}
SQUARE = {"height": 32, "width": 32}


def saved(kind: str, directory: Path) -> Path:
    """A model of that kind with random weights, and its image processor, in `directory`."""
    torch.manual_seed(0)
    t: Any = transformers
    model, processor = {
        "clip": lambda: (
            t.CLIPModel(t.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)),
            t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE),
        ),
        "siglip": lambda: (
            t.SiglipModel(t.SiglipConfig(text_config=TEXT, vision_config=VISION)),
            t.SiglipImageProcessor(size=SQUARE),
        ),
        "dinov2": lambda: (
            t.Dinov2Model(t.Dinov2Config(**VISION)),
            t.BitImageProcessor(size={"shortest_edge": 40}, crop_size=SQUARE),
        ),
        "vit": lambda: (
            t.ViTForImageClassification(t.ViTConfig(**VISION, num_labels=3)),
            t.ViTImageProcessor(size=SQUARE),
        ),
    }[kind]()
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return saved("clip", tmp_path_factory.mktemp("models") / "my clip@home")


@pytest.fixture
def own_clip(clip: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(clip, tmp_path / "clip"))


def photograph() -> tuple[Image.Image, bytes]:
    coarse = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    picture, file = Image.fromarray(coarse).resize((80, 50), Image.Resampling.BICUBIC), io.BytesIO()
    picture.save(file, "PNG")
    return picture, file.getvalue()


def encoded(directory: Path, image: bytes) -> NDArray[np.float32]:
    (features,) = huggingface.load(str(directory)).encode_batch([image])
    assert isinstance(features, np.ndarray)
    return features


@pytest.mark.parametrize(
    ("kind", "tower", "tokens"),
    [
        ("clip", "CLIPVisionModel", 17),
        ("siglip", "SiglipVisionModel", 16),
        ("dinov2", "Dinov2Model", 17),
        ("vit", "ViTModel", 17),
    ],
)
def test_features_are_those_of_transformers_itself(kind: str, tower: str, tokens: int, tmp_path: Path) -> None:
    directory = saved(kind, tmp_path / kind)
    picture, image = photograph()
    encoder = huggingface.load(str(directory))
    assert encoder.shape == (tokens, 32)
    features = encoded(directory, image)

    processor = transformers.AutoImageProcessor.from_pretrained(directory)
    model = getattr(transformers, tower).from_pretrained(directory)
    with torch.inference_mode():
        expected = model(**processor(images=picture, return_tensors="pt")).last_hidden_state[0].numpy()
    assert features.dtype == np.float32
    assert np.abs(features - expected).max() < 0.05 * np.abs(expected).max()  # pixels may round another way
    cosine = (features * expected).sum() / np.linalg.norm(features) / np.linalg.norm(expected)
    assert cosine > 0.9999


def test_a_model_made_for_larger_pictures_is_at_home_on_those_that_its_processor_cuts(own_clip: Path) -> None:
    changed_config(own_clip, "preprocessor_config.json", crop_size={"height": 24, "width": 24})
    encoder = huggingface.load(str(own_clip))
    assert isinstance(encoder.model, VisionTransformer)
    assert encoder.model.shape.image_side == 24
    assert encoder.shape == (1 + 9, 32)


def test_its_name_is_fit_for_a_header_and_its_version_is_local(clip: Path) -> None:
    encoder = huggingface.load(str(clip))
    assert str(encoder.identity) == "hf:my-clip-home@local"


def test_garbage_among_good_images_is_one_images_affair(clip: Path) -> None:
    _, image = photograph()
    good, bad, same = huggingface.load(str(clip)).encode_batch([image, b"garbage", image])
    assert isinstance(bad, UndecodableImage)
    assert np.array_equal(np.asarray(good), np.asarray(same))


def test_the_identity_stays_while_nothing_changes_and_follows_weights_and_preprocessing(own_clip: Path) -> None:
    first = huggingface.load(str(own_clip)).identity
    assert huggingface.load(str(own_clip)).identity == first

    changed_config(own_clip, "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])
    second = huggingface.load(str(own_clip)).identity
    weights = safetensors.torch.load_file(own_clip / "model.safetensors")
    weights["vision_model.post_layernorm.bias"] += 1
    safetensors.torch.save_file(weights, own_clip / "model.safetensors", metadata={"format": "pt"})
    third = huggingface.load(str(own_clip)).identity
    assert len({first.digest, second.digest, third.digest}) == 3


def changed_config(directory: Path, file: str, **changes: object) -> None:
    config = json.loads((directory / file).read_text())
    (directory / file).write_text(json.dumps(config | changes))


def test_pickled_weights_are_refused_and_never_opened(own_clip: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "sprung",)

    (own_clip / "model.safetensors").unlink()
    (own_clip / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InvalidValue, match=r"pytorch_model\.bin, expected safetensors"):
        huggingface.load(str(own_clip))
    assert not (tmp_path / "sprung").exists()


def test_nan_weights_are_refused_by_name(own_clip: Path) -> None:
    weights = safetensors.torch.load_file(own_clip / "model.safetensors")
    weights["vision_model.pre_layrnorm.bias"][0] = torch.nan
    safetensors.torch.save_file(weights, own_clip / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidValue, match=r"1 of 32 weights in first_norm\.bias are not finite"):
        huggingface.load(str(own_clip))


def test_missing_weights_are_refused_and_not_made_up(own_clip: Path) -> None:
    weights = safetensors.torch.load_file(own_clip / "model.safetensors")
    del weights["vision_model.encoder.layers.1.layer_norm2.bias"]
    safetensors.torch.save_file(weights, own_clip / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidValue, match=r"lack blocks\.1\.mlp_norm\.bias"):
        huggingface.load(str(own_clip))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", "garbage"),
        ("config.json", "{"),
        ("config.json", "{}"),
        ("config.json", '{"model_type": "bert"}'),
        ("preprocessor_config.json", "{"),
    ],
)
def test_a_damaged_directory_is_refused(own_clip: Path, file: str, content: str) -> None:
    assert (own_clip / file).exists()
    (own_clip / file).write_text(content)
    with pytest.raises(InvalidValue):
        huggingface.load(str(own_clip))


def test_what_is_neither_directory_nor_id_is_refused() -> None:
    with pytest.raises(InvalidValue, match="neither a directory nor a model's id"):
        huggingface.load("/no/such/directory")


def test_a_hub_out_of_reach_is_worth_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_source: str, local_files_only: bool = False, **_options: object) -> str:
        raise LocalEntryNotFoundError("not cached") if local_files_only else ConnectionError("no route")

    monkeypatch.setattr(huggingface, "snapshot_download", unreachable)
    with pytest.raises(EncoderUnavailable, match=r"not in the cache, and the hub cannot be reached: no route"):
        huggingface.load("somebody/some-model")


def test_what_the_cache_holds_is_used_without_asking_the_hub(
    clip: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = Path(shutil.copytree(clip, tmp_path / commit))

    def cached(_source: str, *, local_files_only: bool, **_options: object) -> str:
        assert local_files_only
        return str(snapshot)

    monkeypatch.setattr(huggingface, "snapshot_download", cached)
    assert str(huggingface.load("somebody/some-model").identity) == f"hf:somebody/some-model@{commit}"


@pytest.mark.parametrize(
    "processor", ["CLIPImageProcessor", "SiglipImageProcessor", "BitImageProcessor", "ViTImageProcessor"]
)
def test_pixels_are_prepared_as_the_models_own_processor_would(processor: str) -> None:
    own = getattr(transformers, processor)()
    picture, _ = photograph()
    expected = own(images=picture, return_tensors="np")["pixel_values"][0]
    made = prepared(picture, preprocessing_of(own.to_dict()))
    assert made.shape == expected.shape
    levels = np.abs(made - expected) * 255 * min(own.image_std)
    assert levels.max() < 2.5  # of 255, where a value half-way between two rounds another way
    assert levels.mean() < 0.02


@pytest.mark.parametrize(
    "config",
    [
        {"size": {"shortest_edge": 32}},
        {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 48, "width": 48}},
        {"size": {"longest_edge": 32}},
        {"size": SQUARE, "do_resize": False},
        {"size": {}},
    ],
)
def test_a_processor_that_leaves_the_shape_open_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match="expected a height and width"):
        preprocessing_of(
            {"image_mean": [0, 0, 0], "image_std": [1, 1, 1], "resample": 3, "rescale_factor": 1.0, **config}
        )
