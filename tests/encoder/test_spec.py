"""Which encoder is meant, and its identity, known without loading anything."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from edgecache.encoder import spec
from edgecache.encoder.spec import Kind, Spec, fingerprint_of, identity_of
from edgecache.protocol.errors import InvalidValue

FILES = [("model.safetensors", sha256(b"weights").digest()), ("config.json", sha256(b"{}").digest())]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("edgecache/tiny", Spec(Kind.TINY)),
        ("hf:openai/clip-vit-base-patch32", Spec(Kind.HUGGINGFACE, "openai/clip-vit-base-patch32")),
        ("hf:/models/a:b", Spec(Kind.HUGGINGFACE, "/models/a:b")),
        ("vit:models/m.safetensors", Spec(Kind.VIT, "models/m.safetensors")),
        ("onnx:models/m.onnx", Spec(Kind.ONNX, "models/m.onnx")),
        ("module:my.encoders:make", Spec(Kind.MODULE, "my.encoders:make")),
    ],
)
def test_every_kind_of_spec_is_understood(text: str, expected: Spec) -> None:
    assert Spec.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tiny",
        "edgecache/large",
        "hf:",
        "module:",
        "module:path",
        "module::make",
        "onnx:",
        "tensorrt:m.plan",
        "hf:a\r\nb",
        "hf:\0",
    ],
)
def test_a_wrong_spec_is_answered_with_what_there_is(text: str) -> None:
    with pytest.raises(InvalidValue, match="expected edgecache/tiny, hf:") as refused:
        identity_of(text)
    assert str(refused.value).isprintable()


def test_tiny_is_known_without_torch_and_without_pillow() -> None:
    program = (
        "import sys; from edgecache.encoder.spec import identity_of;"
        "from edgecache.encoder.worker import EncoderWorker;"
        "known = EncoderWorker('edgecache/tiny').known; assert known == identity_of('edgecache/tiny');"
        "print(known.identity, known.shape, len(known.identity.fingerprint), *{'torch', 'PIL'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "edgecache/tiny@1 (64, 192) 32\n"


def test_what_only_loading_can_tell_is_unknown() -> None:
    assert identity_of("hf:some/model") is None
    assert identity_of("module:some.path:factory") is None


@pytest.mark.parametrize("text", ["onnx:gone.onnx", "vit:gone.safetensors", "hf:./gone", "hf:/gone", "gone.toml"])
def test_a_file_that_is_not_there_is_a_wrong_spec(text: str) -> None:
    with pytest.raises(InvalidValue, match=r"gone.*: no such file or directory|gone\.toml: No such file or directory"):
        identity_of(text)


def test_missing_weights_are_the_answer_and_not_a_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(spec, "TINY_WEIGHTS", tmp_path / "gone.safetensors")
    with pytest.raises(InvalidValue, match=r"gone\.safetensors"):
        identity_of("edgecache/tiny")


def test_the_identity_changes_with_the_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = identity_of("edgecache/tiny")
    assert before is not None
    weights = bytearray(spec.TINY_WEIGHTS.read_bytes())
    weights[-1] ^= 1
    (tmp_path / "other.safetensors").write_bytes(weights)
    monkeypatch.setattr(spec, "TINY_WEIGHTS", tmp_path / "other.safetensors")
    after = identity_of("edgecache/tiny")
    assert after is not None
    assert after.identity.digest != before.identity.digest
    assert str(after.identity) == str(before.identity)


def test_every_part_of_a_fingerprint_counts() -> None:
    how = spec.TINY_PREPROCESSING
    made = [
        fingerprint_of(FILES, how, (64, 192)),
        fingerprint_of(FILES[:1], how, (64, 192)),
        fingerprint_of([("other.safetensors", FILES[0][1]), FILES[1]], how, (64, 192)),
        fingerprint_of([("model.safetensors", sha256(b"others").digest()), FILES[1]], how, (64, 192)),
        fingerprint_of(FILES, replace(how, shorter_side=36), (64, 192)),
        fingerprint_of(FILES, how, (192, 64)),
    ]
    assert len(set(made)) == len(made)


def test_a_change_in_how_images_are_decoded_is_another_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint_of(FILES, spec.TINY_PREPROCESSING, (64, 192))
    monkeypatch.setattr("edgecache.encoder.preprocessing.DECODING_REVISION", 1_000)
    assert fingerprint_of(FILES, spec.TINY_PREPROCESSING, (64, 192)) != before
