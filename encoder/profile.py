"""A profile: how an encoder runs on this kind of device, as `edgecache-encoder tune` found it. A TOML file.

It names the encoder that it came from, the options, the preprocessing and the graphs beside it with their SHA-256; and
it says what was measured, for people. Who made the features of a profile is another encoder than the plain one: its
version has eight digits of the options' and graphs' digest behind the plain version, and its fingerprint covers the
plain encoder's, the options and every graph. So features of different fidelity have different keys.
"""

from __future__ import annotations

from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from ..protocol.errors import InvalidValue
from ..protocol.keys import DIGEST_BYTES, EncoderIdentity
from .options import Options
from .preprocessing import Preprocessing
from .spec import Description

FORMAT = 1
GRAPHS_MAX = 64
PROFILE_BYTES_MAX = 1 << 20


class GraphFile(msgspec.Struct, frozen=True):
    """One ONNX file beside the profile."""

    name: str
    file: str
    sha256: str


class Origin(msgspec.Struct, frozen=True):
    """The plain encoder."""

    spec: str
    name: str
    version: str
    fingerprint: str


class Profile(msgspec.Struct, frozen=True):
    """What the TOML file says."""

    format: int
    encoder: Origin
    shape: tuple[int, int]
    preprocessing: Preprocessing
    options: Options
    graphs: tuple[GraphFile, ...] = ()
    measured: dict[str, Any] = {}

    @property
    def description(self) -> Description:
        """Who the features are by, and their shape."""
        digest = sha256(b"edgecache profile\0" + bytes.fromhex(self.encoder.fingerprint))
        digest.update(self.options.canonical())
        digest.update(b"\0%s\0%d %d" % (self.preprocessing.describe().encode(), *self.shape))
        for graph in self.graphs:
            digest.update(b"\0%s\0%s" % (graph.name.encode(), graph.sha256.encode()))
        version = f"{self.encoder.version}+{digest.hexdigest()[:8]}"
        return Description(EncoderIdentity(self.encoder.name, version, digest.digest()), self.shape)


def read(path: Path) -> Profile:
    """The profile in a file; InvalidValue says what is wrong with it."""
    try:
        data = path.read_bytes()
        if len(data) > PROFILE_BYTES_MAX:
            raise InvalidValue(f"profile {path.name} of {len(data)} bytes, at most {PROFILE_BYTES_MAX}")
        profile = msgspec.toml.decode(data, type=Profile)
    except InvalidValue:
        raise
    except OSError as error:
        raise InvalidValue(f"profile {path}: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise InvalidValue(f"profile {path.name}: {error}") from error
    if profile.format != FORMAT:
        raise InvalidValue(f"profile {path.name} of format {profile.format}, this edgecache reads {FORMAT}")
    if len(profile.graphs) > GRAPHS_MAX:
        raise InvalidValue(f"profile {path.name} with {len(profile.graphs)} graphs, at most {GRAPHS_MAX}")
    for graph in profile.graphs:
        # A name and no path: a profile from elsewhere must not make a node read its other files.
        if Path(graph.file).name != graph.file or graph.file in ("", ".", ".."):
            raise InvalidValue(f"profile {path.name}: graph {graph.file!a}, expected a file beside it")
    if min(profile.shape) < 1 or len(bytes_of(profile.encoder.fingerprint)) != DIGEST_BYTES:
        raise InvalidValue(f"profile {path.name}: shape {profile.shape} or its encoder's fingerprint is none")
    return profile


def bytes_of(digits: str) -> bytes:
    """What hexadecimal digits spell, or nothing."""
    try:
        return bytes.fromhex(digits)
    except ValueError:
        return b""


def graphs_of(profile: Profile, path: Path) -> dict[str, bytes]:
    """Every graph's bytes; InvalidValue where one is missing or another than was measured."""
    files = {}
    for graph in profile.graphs:
        try:
            data = (path.parent / graph.file).read_bytes()
        except OSError as error:
            raise unreadable(path, graph, error) from error
        check_digest(path, graph, sha256(data).digest())
        files[graph.name] = data
    return files


def unreadable(path: Path, graph: GraphFile, error: OSError) -> InvalidValue:
    """What is said of a graph that cannot be read."""
    return InvalidValue(f"profile {path.name}: graph {graph.file} cannot be read: {error}")


def check_digest(path: Path, graph: GraphFile, digest: bytes) -> None:
    """Raise InvalidValue for a graph that is another than was measured."""
    if digest.hex() != graph.sha256:
        raise InvalidValue(
            f"profile {path.name}: graph {graph.file} has SHA-256 {digest.hex()[:8]}…, expected {graph.sha256[:8]}…"
        )


def write(path: Path, profile: Profile, files: dict[str, bytes]) -> Profile:
    """Write the graphs, then the profile that names them; the profile as it was written."""
    graphs = []
    for name, data in files.items():
        file = f"{path.stem}.{name}.onnx"
        (path.parent / file).write_bytes(data)
        graphs.append(GraphFile(name, file, sha256(data).hexdigest()))
    profile = msgspec.structs.replace(profile, graphs=tuple(graphs))
    fields = msgspec.structs.asdict(profile) | {
        "encoder": msgspec.structs.asdict(profile.encoder),
        "graphs": [msgspec.structs.asdict(graph) for graph in graphs],
        "options": asdict(profile.options),
        "preprocessing": {name: value for name, value in asdict(profile.preprocessing).items() if value is not None},
    }
    path.write_bytes(msgspec.toml.encode(fields))
    return profile
