"""`hf:ID-or-directory`: the vision tower of a Hugging Face model, CLIP, SigLIP, DINOv2, DeiT or ViT.

transformers reads the image processor's configuration, with its many defaults; weights and model are our own
(`encoder/checkpoint.py`, `encoder/vit.py`), so that everything that makes a tower faster applies to these too.
"""

from __future__ import annotations

import re
from hashlib import file_digest
from pathlib import Path

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError

from ..protocol.errors import EncoderUnavailable, InvalidValue
from ..protocol.keys import ENCODER_NAME_CHARS_MAX, EncoderIdentity
from . import checkpoint
from .preprocessing import preprocessing_of
from .spec import Description, fingerprint_of
from .torch_encoder import TorchEncoder

# All that a tower needs. Weights in other formats (.bin, .pt) are pickles, which run code when they are read: they are
# neither downloaded nor opened. Nor is a model's own Python (trust_remote_code), about which transformers would ask on
# standard input, where the frames come from.
_FILES = ["*.json", "*.safetensors"]


def load(source: str) -> TorchEncoder:
    """The vision tower in a directory or, from the cache if it is there, of a hub's model.

    Its features are what transformers calls `last_hidden_state`, class token included. InvalidValue when there is
    nothing usable, EncoderUnavailable when the hub cannot be reached.
    """
    directory, version = _found(source)
    name = "hf:" + re.sub(r"[^!-?A-~]", "-", directory.name if version == "local" else source)
    if not list(directory.glob("*.safetensors")):
        pickles = ", ".join(sorted(path.name for path in directory.glob("*.bin"))) or "no weights"
        raise InvalidValue(f"{directory} has {pickles}, expected safetensors (pickles are never read)")
    try:
        tower = checkpoint.load(directory)
        transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        processor = transformers.AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            directory, trust_remote_code=False
        )
        preprocessing = preprocessing_of(processor.to_dict())
        if preprocessing.height == preprocessing.width != tower.shape.image_side:
            tower.set_side(preprocessing.height)
        blank = torch.zeros(1, 3, preprocessing.height, preprocessing.width)
        with torch.inference_mode():
            _, tokens, dim = tower(blank).shape
    except (OSError, ValueError, LookupError, SafetensorError) as error:
        raise InvalidValue(str(error)) from error
    files = [
        (path.name, _sha256(path)) for path in sorted([*directory.glob("*.safetensors"), directory / "config.json"])
    ]
    fingerprint = fingerprint_of(files, preprocessing, (tokens, dim))
    identity = EncoderIdentity(name[:ENCODER_NAME_CHARS_MAX], version, fingerprint)
    return TorchEncoder(Description(identity, (tokens, dim)), preprocessing, tower)


def _found(source: str) -> tuple[Path, str]:
    """The directory that holds the model, and its version: the hub's commit, or `local`."""
    if Path(source).is_dir():
        return Path(source).resolve(), "local"
    try:
        # What is here already is used as it is: a device off the net starts, and a fleet does not change its encoder
        # because somebody pushed to a repository.
        directory = Path(snapshot_download(source, allow_patterns=_FILES, local_files_only=True))
        if list(directory.glob("*.safetensors")) and (directory / "config.json").exists():
            return directory, directory.name
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise InvalidValue(f"neither a directory nor a model's id: {error}") from error
    try:
        directory = Path(snapshot_download(source, allow_patterns=_FILES))
    except RepositoryNotFoundError as error:
        raise InvalidValue("no such directory, and no such model on the hub") from error
    except (HfHubHTTPError, OSError) as error:
        raise EncoderUnavailable(
            f"no such directory, not in the cache, and the hub cannot be reached: {error}"
        ) from error
    return directory, directory.name


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return file_digest(file, "sha256").digest()
