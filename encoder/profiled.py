"""A profile becomes an encoder: its graphs on the runtime that it names, or the plain model with torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..protocol.errors import InvalidValue
from . import profile as profiles
from .image_encoder import ImageEncoder
from .profile import Profile
from .runtimes import Graph, Runtime, needing, open_graph
from .spec import PROFILE_SUFFIX
from .towers import Tower, tower_of


def load(source: str, threads: int) -> ImageEncoder:
    """The encoder that the profile in a file describes; InvalidValue says what does not fit."""
    path = Path(source)
    profile = profiles.read(path)
    tower = _with_torch(profile) if profile.options.runtime is Runtime.TORCH else _opened(profile, path, threads)
    return ImageEncoder(profile.description, profile.preprocessing, tower)


def _opened(profile: Profile, path: Path, threads: int) -> Tower:
    runtime, is_bfloat16 = profile.options.runtime, profile.options.precision.is_bfloat16
    if runtime is Runtime.ONNX:
        graphs = _from_files(profile, path, threads)
    else:
        graphs = {
            name: open_graph(runtime, file, threads, is_bfloat16=is_bfloat16)
            for name, file in profiles.graphs_of(profile, path).items()
        }
    try:
        return tower_of(profile.options, graphs)
    except KeyError as error:
        raise InvalidValue(f"its options need a graph {error}, it has {', '.join(graphs) or 'none'}") from error


def _from_files(profile: Profile, path: Path, threads: int) -> dict[str, Graph]:
    """ONNX Runtime reads its files itself, which leaves no second copy in memory."""
    with needing("onnx"):
        from .runtimes.onnx_graph import OnnxGraph
    graphs: dict[str, Graph] = {}
    for graph in profile.graphs:
        check = partial(profiles.check_digest, path, graph)
        try:
            graphs[graph.name], _ = OnnxGraph.of_file(path.parent / graph.file, threads, check)
        except OSError as error:
            raise profiles.unreadable(path, graph, error) from error
    return graphs


def _with_torch(profile: Profile) -> Tower:
    with needing("encoder"):
        from .build import build
    from .load import load as load_spec
    from .torch_encoder import TorchEncoder
    from .vit import VisionTransformer

    if profile.encoder.spec.endswith(PROFILE_SUFFIX):
        raise InvalidValue(f"a profile of a profile, {profile.encoder.spec!a}")
    if profile.options.is_fitted:
        raise InvalidValue(f"{profile.options}: what was fitted on images is in no file; export it to another runtime")
    plain = load_spec(profile.encoder.spec)
    if plain.identity.fingerprint.hex() != profile.encoder.fingerprint:
        raise InvalidValue(
            f"the profile is for {profile.encoder.name}@{profile.encoder.version} with other weights than "
            f"{profile.encoder.spec} has here"
        )
    assert isinstance(plain, TorchEncoder)
    assert isinstance(plain.model, VisionTransformer)
    return build(plain.model, profile.options).tower
