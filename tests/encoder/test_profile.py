"""A profile on disk: what it says comes back, whose features it makes, and what is refused."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from edgecache.encoder import profile as profiles
from edgecache.encoder import tiny
from edgecache.encoder.build import build
from edgecache.encoder.load import load
from edgecache.encoder.options import Options, Precision
from edgecache.encoder.profile import Origin, Profile
from edgecache.encoder.runtimes import Array, Runtime
from edgecache.encoder.shortcuts import Shortcuts
from edgecache.encoder.spec import TINY_PREPROCESSING, identity_of
from edgecache.encoder.vit import VisionTransformer
from edgecache.encoder.worker import EncoderWorker
from edgecache.protocol.errors import InvalidValue
from PIL import Image

PLAIN = tiny.load()
ORIGIN = Origin("edgecache/tiny", "edgecache/tiny", "1", PLAIN.identity.fingerprint.hex())
EXITING = Options(
    Runtime.ONNX, Precision.INT8, Shortcuts(merge=4, is_bridged=True), exits=(2,), exit_sureness=(0.1234567890123,)
)


def written(directory: Path, model: VisionTransformer, options: Options, pictures: Array) -> Path:
    built = build(model, options, pictures)
    profile = Profile(profiles.FORMAT, ORIGIN, (64, 192), TINY_PREPROCESSING, built.options, measured={"ms": 1.5})
    profiles.write(directory / "fast.toml", profile, built.files)
    return directory / "fast.toml"


def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def exiting(tmp_path_factory: pytest.TempPathFactory, tiny_model: VisionTransformer, pictures: Array) -> Path:
    return written(tmp_path_factory.mktemp("profile"), tiny_model, EXITING, pictures)


def test_what_is_written_is_read_again(exiting: Path) -> None:
    profile = profiles.read(exiting)
    assert profile.options == EXITING
    assert profile.preprocessing == TINY_PREPROCESSING
    assert profile.measured == {"ms": 1.5}
    assert set(profiles.graphs_of(profile, exiting)) == {"stage0", "leave0", "stage1"}


async def test_a_nodes_worker_runs_it_under_an_identity_of_its_own(exiting: Path) -> None:
    worker = EncoderWorker(str(exiting), threads=1)
    known = worker.known  # before anything is loaded
    try:
        features = await worker.encode(picture())
    finally:
        await worker.close()
    assert features.shape == (64, 192)
    assert known is not None
    assert known == identity_of(str(exiting))
    assert known.identity.name == "edgecache/tiny"
    assert known.identity.version.startswith("1+")
    assert known.identity.digest != PLAIN.identity.digest


def test_every_option_and_every_graph_is_in_the_identity(exiting: Path) -> None:
    profile = profiles.read(exiting)
    change = msgspec.structs.replace
    others = [
        profile,
        change(profile, options=replace(EXITING, exit_sureness=(0.2,))),
        change(profile, options=replace(EXITING, runtime=Runtime.ONNX, precision=Precision.INT8_STATIC)),
        change(profile, options=replace(EXITING, shortcuts=Shortcuts(merge=5, is_bridged=True))),
        change(profile, graphs=(change(profile.graphs[0], sha256="0" * 64), profile.graphs[1])),
        change(profile, encoder=change(ORIGIN, fingerprint="0" * 64)),
        change(profile, preprocessing=replace(TINY_PREPROCESSING, shorter_side=36)),
    ]
    assert len({other.description.identity.digest for other in others}) == len(others)
    assert len({other.description.identity.version for other in others}) == len(others)
    measured = change(profile, measured={"ms": 9.9})
    assert measured.description == profile.description  # measured again, still the same features


def test_a_profile_for_torch_takes_the_plain_models_weights(
    tmp_path: Path, tiny_model: VisionTransformer, pictures: Array
) -> None:
    path = written(tmp_path, tiny_model, Options(shortcuts=Shortcuts(merge=4)), pictures)
    (made,) = load(str(path)).encode_batch([picture()])
    (plain,) = PLAIN.encode_batch([picture()])
    assert isinstance(made, np.ndarray)
    assert isinstance(plain, np.ndarray)
    assert 1e-3 < np.abs(made - plain).max() < 5
    text = path.read_text().replace(ORIGIN.fingerprint, "0" * 64)
    path.write_text(text)
    with pytest.raises(InvalidValue, match="with other weights than edgecache/tiny has here"):
        load(str(path))


def test_what_was_fitted_is_in_no_torch_profile(tmp_path: Path, tiny_model: VisionTransformer, pictures: Array) -> None:
    path = written(tmp_path, tiny_model, Options(shortcuts=Shortcuts(is_bridged=True)), pictures)
    with pytest.raises(InvalidValue, match="in no file"):
        load(str(path))


def respoilt(path: Path, directory: Path, before: str, after: str) -> Path:
    for graph in path.parent.glob("*.onnx"):
        (directory / graph.name).write_bytes(graph.read_bytes())
    text = path.read_text()
    assert before in text
    (directory / path.name).write_text(text.replace(before, after, 1))
    return directory / path.name


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("format = 1", "format = 2", "of format 2, this edgecache reads 1"),
        ("fast.stage0.onnx", "../fast.stage0.onnx", "expected a file beside it"),
        ("fast.stage0.onnx", "gone.onnx", r"gone\.onnx cannot be read"),
        ('runtime = "onnx"', 'runtime = "tensorrt"', "tensorrt"),
        ('precision = "int8"', 'precision = "bfloat16"', "onnx in bfloat16"),
        ('sha256 = "', 'sha256 = "0', r"expected 0"),
        (ORIGIN.fingerprint, "xyz", "fingerprint is none"),
        ("merge = 4", 'merge = "many"', "merge"),
        ('name = "stage1"', 'name = "stage7"', "need a graph 'stage1'"),
        ('name = "leave0"', 'name = "former"', "need a graph 'leave0'"),  # one made when stages made the features
    ],
)
def test_a_spoilt_profile_is_refused(before: str, after: str, says: str, exiting: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=says):
        load(str(respoilt(exiting, tmp_path, before, after)))


def test_a_graph_that_was_replaced_is_refused(exiting: Path, tmp_path: Path) -> None:
    path = respoilt(exiting, tmp_path, "format = 1", "format = 1")
    (tmp_path / "fast.stage0.onnx").write_bytes(b"another")
    with pytest.raises(InvalidValue, match=r"graph fast\.stage0\.onnx has SHA-256"):
        load(str(path))


def test_what_is_no_profile_is_refused(tmp_path: Path) -> None:
    for content in (b"garbage", b"\xff\xfe", b"format = 1", b"\0" * 2_000_000):
        (tmp_path / "p.toml").write_bytes(content)
        with pytest.raises(InvalidValue, match=r"profile p\.toml"):
            identity_of(str(tmp_path / "p.toml"))
    with pytest.raises(InvalidValue, match=r"gone\.toml"):
        identity_of(str(tmp_path / "gone.toml"))
