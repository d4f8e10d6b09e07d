"""`onnx:FILE`: a file that says who it is, one that does not, and those that are no encoder."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from edgecache.encoder import onnx_file, tiny
from edgecache.encoder.export import exported
from edgecache.encoder.load import load
from edgecache.encoder.onnx_file import METADATA_KEY, FileMetadata
from edgecache.encoder.spec import TINY_PREPROCESSING
from edgecache.encoder.worker import EncoderWorker
from edgecache.protocol.errors import InvalidValue, UndecodableImage
from PIL import Image
from torch import Tensor, nn

METADATA = {METADATA_KEY: msgspec.json.encode(FileMetadata("edgecache/tiny", "1", TINY_PREPROCESSING)).decode()}
CONFIG = {
    "size": {"height": 16, "width": 16},
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    path.write_bytes(exported(tiny.load().model, [torch.zeros(1, 3, 32, 32)], ["features"], METADATA))  # type: ignore[arg-type]
    return path


class Pooled(nn.Module):
    """The mean colour, with a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.factor * pixels.mean(dim=(2, 3))


def picture() -> bytes:
    file = io.BytesIO()
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((60, 40), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def test_its_features_are_those_of_the_model_that_it_was(tiny_file: Path) -> None:
    encoder = load(f"onnx:{tiny_file}")
    assert encoder.shape == (64, 192)
    made, wrong = encoder.encode_batch([picture(), b"garbage"])
    (expected,) = tiny.load().encode_batch([picture()])
    assert isinstance(made, np.ndarray)
    assert isinstance(expected, np.ndarray)
    assert isinstance(wrong, UndecodableImage)
    assert np.abs(made - expected).max() < 1e-4


def test_it_keeps_its_name_and_is_told_from_its_origin(tiny_file: Path) -> None:
    identity, origin = load(f"onnx:{tiny_file}").identity, tiny.load().identity
    assert str(identity) == str(origin)
    assert identity.digest != origin.digest  # other kernels, other last bits: features of the two never mix


async def test_a_node_without_torch_can_run_it(tiny_file: Path) -> None:
    worker = EncoderWorker(f"onnx:{tiny_file}", threads=1)
    try:
        assert (await worker.encode(picture())).shape == (64, 192)
    finally:
        await worker.close()


def test_neither_torch_nor_onnx_is_imported_to_run_it(tiny_file: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None; from edgecache.encoder.load import load;"
        f"encoder = load('onnx:{tiny_file}'); print(encoder.shape, 'onnx' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "(64, 192) False\n"


def test_anothers_file_is_read_with_the_configuration_beside_it(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    path = tmp_path / "onnx" / "their model.onnx"
    path.write_bytes(exported(Pooled(), [torch.zeros(1, 3, 16, 16)], ["pooled"]))
    with pytest.raises(InvalidValue, match=r"their model\.onnx does not say how it wants its pixels"):
        onnx_file.load(str(path), 1)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CONFIG))
    encoder = onnx_file.load(str(path), 1)
    assert encoder.shape == (1, 3)
    assert str(encoder.identity) == "onnx:their-model@local"
    assert encoder.preprocessing.height == 16


def test_other_weights_or_pixels_make_another_encoder(tmp_path: Path) -> None:
    made = []
    for factor, mean in ((1.0, 0.5), (2.0, 0.5), (1.0, 0.4)):
        (tmp_path / "m.onnx").write_bytes(exported(Pooled(factor), [torch.zeros(1, 3, 16, 16)], ["features"]))
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(CONFIG | {"image_mean": [mean] * 3}))
        made.append(onnx_file.load(str(tmp_path / "m.onnx"), 1).identity.digest)
    assert len(set(made)) == 3


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"size": {"height": 8, "width": 8}}, r"shape \[1, 3, 16, 16\], expected \[1, 3, 8, 8\]"),
        ({"image_mean": None}, "image_mean|NoneType"),
        ({"size": 16}, ""),
        ({"size": {}}, "expected a height and width"),
        ({"resample": None}, "int"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(config: dict[str, object], says: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(exported(Pooled(), [torch.zeros(1, 3, 16, 16)], ["features"]))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CONFIG | config))
    if says:
        with pytest.raises(InvalidValue, match=says):
            onnx_file.load(str(tmp_path / "m.onnx"), 1)
    else:
        assert onnx_file.load(str(tmp_path / "m.onnx"), 1).shape == (1, 3)


def test_files_that_are_no_encoder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="cannot be read"):
        onnx_file.load(str(tmp_path / "gone.onnx"), 1)
    (tmp_path / "m.onnx").write_bytes(b"garbage")
    with pytest.raises(InvalidValue, match="7 bytes that are no ONNX model"):
        onnx_file.load(str(tmp_path / "m.onnx"), 1)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CONFIG))
    for weight in (float("nan"), float("inf")):
        (tmp_path / "m.onnx").write_bytes(exported(Pooled(weight), [torch.zeros(1, 3, 16, 16)], ["features"]))
        with pytest.raises(InvalidValue, match=r"shape \(1, 1, 3\), not all of them finite"):
            onnx_file.load(str(tmp_path / "m.onnx"), 1)
