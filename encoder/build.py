"""A plain model and options become graphs: fitted, exported, quantised, compiled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..protocol.errors import InvalidValue
from .depth.exits import Stage, stages_of, thresholds_for
from .export import check, exported
from .options import Options, Precision
from .quantization import dynamic_int8, static_int8
from .reduced import ReducedVit, fit_bridge
from .runtimes import Array, Graph, Runtime, open_graph
from .runtimes.torch_graph import TorchGraph
from .shortcuts import Shortcuts, Slim
from .tokens.detail import detail_bits
from .towers import MAIN, SMALL, STAGE, Tower, tower_of
from .vit import VisionTransformer
from .weights.slim import slim

FIT_COSINE_MIN = 0.99
"""What those who leave early, or are seen small, have in the mean with the plain model's features, if not told."""
CALIBRATION_IMAGES = 32
"""Images that ranges of activations are measured on."""
_CHUNK = 64  # images in one pass while fitting


@dataclass(frozen=True, slots=True)
class Built:
    """What `build` made: options with all that was found on images, the files (none for torch), and the tower."""

    options: Options
    files: dict[str, bytes]
    tower: Tower

    @property
    def model_bytes(self) -> int:
        """The files together."""
        return sum(map(len, self.files.values()))


def build(
    model: VisionTransformer,
    options: Options,
    images: Array | None = None,
    *,
    threads: int = 1,
    batch: int = 1,
    cosine_min: float = FIT_COSINE_MIN,
    plain: Array | None = None,
) -> Built:
    """Make the tower that `options` describe. `images` (count, 3, side, side) are what it is fitted and calibrated on.

    `plain` are the plain model's features of those images, if they are at hand.

    Graphs are for batches of exactly `batch`, in which exits and routes are not possible beyond 1 except with torch.
    """
    needs_images = options.is_fitted or options.precision in (Precision.INT8_STATIC, Precision.INT8_BFLOAT16)
    if needs_images and images is None:
        raise InvalidValue(f"{options}: it is fitted on images, and there are none")
    wanted = None
    if options.is_fitted:
        assert images is not None
        wanted = torch.from_numpy(plain) if plain is not None else through(model, torch.from_numpy(images))
    options, modules = fitted(model, options, images, wanted, cosine_min)
    if options.runtime is Runtime.TORCH:
        graphs: dict[str, Graph] = {
            name: TorchGraph(module, is_bfloat16=options.precision.is_bfloat16) for name, module in modules.items()
        }
        return Built(options, {}, tower_of(options, graphs))
    side = model.shape.image_side
    examples = images if images is not None else np.zeros((1, 3, side, side), np.float32)
    files = _files(options, modules, examples, batch)
    graphs = {
        name: open_graph(options.runtime, file, threads, is_bfloat16=options.precision.is_bfloat16)
        for name, file in files.items()
    }
    if options.precision is Precision.FLOAT32:
        for name, inputs in _inputs(modules, _batches(examples, batch)):
            check(modules[name], graphs[name], inputs)
            break
    return Built(options, files, tower_of(options, graphs))


def fitted(
    model: VisionTransformer, options: Options, images: Array | None, wanted: Tensor | None, cosine_min: float
) -> tuple[Options, dict[str, nn.Module]]:
    """The modules that `options` describe, and the options with the thresholds that were found for them.

    `wanted` are the plain model's features of `images`.
    """
    pixels = None if images is None else torch.from_numpy(images)
    options.slim.check(options.shortcuts, model.shape.depth)
    is_bridged = options.shortcuts.is_bridged and options.slim != Slim()  # even where nothing else is cut
    if options.slim != Slim():
        assert pixels is not None
        model = slim(model, options.slim, pixels)
    modules: dict[str, nn.Module] = {}
    if options.small_side:
        assert pixels is not None
        assert wanted is not None
        small = replace(options.shortcuts, side=options.small_side)
        if options.is_cascade:
            options, modules[SMALL] = _first_look(model, options, small, pixels, wanted, cosine_min)
        else:
            modules[SMALL] = bridged(model, small, pixels, wanted)
        if not options.small_bits and not options.is_cascade:
            cosines = cosine_of(through(modules[SMALL], pixels), wanted)
            plainness = np.array([-detail_bits(picture) for picture in pixels.numpy()], np.float32)
            (threshold,) = thresholds_for([plainness], [cosines], cosine_min)
            options = replace(options, small_bits=-threshold)
    if options.exits:
        assert pixels is not None
        assert wanted is not None
        options, stages = _with_exits(model, options, pixels, wanted, cosine_min)
        return options, modules | stages
    return options, modules | {MAIN: bridged(model, options.shortcuts, pixels, wanted, is_bridged)}


def bridged(
    model: VisionTransformer,
    shortcuts: Shortcuts,
    pixels: Tensor | None,
    wanted: Tensor | None,
    is_changed: bool = False,
) -> ReducedVit:
    """The reduced model, with its bridge to the features that are `wanted`, if it is to have one.

    `is_changed` says that the model is not the one whose features are wanted, so that a bridge has something to do.
    """
    reduced = ReducedVit(model, shortcuts).eval()
    if shortcuts.is_bridged and (is_changed or shortcuts != Shortcuts(is_bridged=True)):
        assert pixels is not None
        assert wanted is not None
        reduced.bridge = fit_bridge(through(reduced, pixels), wanted)
    return reduced


def _first_look(
    model: VisionTransformer,
    options: Options,
    shortcuts: Shortcuts,
    pixels: Tensor,
    wanted: Tensor,
    cosine_min: float,
) -> tuple[Options, Stage]:
    """What sees everybody small, and how sure one must be to need no more."""
    reduced = ReducedVit(model, shortcuts).eval()
    stage = Stage(reduced, reduced.run, nn.Identity(), is_first=True, is_last=False)
    made, (sureness, *_) = _through_stage(stage, (pixels,))
    if shortcuts.is_bridged:
        stage.bridge = fit_bridge(made, wanted)
        made, (sureness, *_) = _through_stage(stage, (pixels,))
    if not options.small_sureness:
        (threshold,) = thresholds_for([sureness.numpy()], [cosine_of(made, wanted)], cosine_min)
        options = replace(options, small_sureness=threshold)
    return options, stage


def _with_exits(
    model: VisionTransformer, options: Options, pixels: Tensor, wanted: Tensor, cosine_min: float
) -> tuple[Options, dict[str, nn.Module]]:
    shape = model.shape
    for block in options.exits:
        if not 0 < block < (options.shortcuts.depth or shape.depth):
            raise InvalidValue(f"exit after {block} blocks: the model has {shape.depth}")
    reduced = ReducedVit(model, options.shortcuts).eval()
    is_whole = options.shortcuts == Shortcuts(is_bridged=True) and options.slim == Slim()
    stages = stages_of(reduced, options.exits)
    state: tuple[Tensor, ...] = (pixels,)
    sureness, cosines = [], []
    for stage in stages:
        made, state_after = _through_stage(stage, state)
        if options.shortcuts.is_bridged and not (stage.is_last and is_whole):
            stage.bridge = fit_bridge(made, wanted)
            made, state_after = _through_stage(stage, state)
        if not stage.is_last:
            sureness.append(state_after[0].numpy())
            cosines.append(cosine_of(made, wanted))
            state = state_after[1:]
    if not options.exit_sureness:
        options = replace(options, exit_sureness=tuple(thresholds_for(sureness, cosines, cosine_min)))
    return options, {f"{STAGE}{index}": stage for index, stage in enumerate(stages)}


@torch.inference_mode()
def _through_stage(stage: Stage, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    chunks = [stage(*chunk) for chunk in zip(*(torch.split(tensor, _CHUNK) for tensor in state), strict=True)]
    made, *rest = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    return made, tuple(rest)


@torch.inference_mode()
def through(module: nn.Module, pixels: Tensor) -> Tensor:
    """The features of many images, in passes of some."""
    return torch.cat([module(chunk) for chunk in torch.split(pixels, _CHUNK)])


def cosine_of(made: Tensor, wanted: Tensor) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """For each image, the cosine of all of its features as one vector."""
    cosines: np.ndarray[tuple[int], np.dtype[np.float32]] = F.cosine_similarity(
        made.flatten(1), wanted.flatten(1)
    ).numpy()
    return cosines


def _files(options: Options, modules: Mapping[str, nn.Module], examples: Array, batch: int) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    calibration: dict[str, list[tuple[Array, ...]]] = {name: [] for name in modules}
    count = CALIBRATION_IMAGES if options.precision in (Precision.INT8_STATIC, Precision.INT8_BFLOAT16) else 1
    for name, inputs in _inputs(modules, _batches(examples[:count], batch)):
        calibration[name].append(inputs)
    for name, module in modules.items():
        inputs = calibration[name][0]
        outputs = ["features"]
        if isinstance(module, Stage) and not module.is_last:
            outputs += ["sureness", "tokens", "sizes", "where"][: len(TorchGraph(module).run(*inputs)) - 1]
        file = exported(module, [torch.from_numpy(array) for array in inputs], outputs)
        if options.precision is Precision.INT8:
            file = dynamic_int8(file)
        elif options.precision in (Precision.INT8_STATIC, Precision.INT8_BFLOAT16):
            file = static_int8(file, calibration[name])
        files[name] = file
    return files


def _inputs(modules: Mapping[str, nn.Module], batches: Sequence[Array]) -> Iterator[tuple[str, tuple[Array, ...]]]:
    """What each graph would be given for these pixels, in order."""
    for pixels in batches:
        state: tuple[Array, ...] = (pixels,)
        for name, module in modules.items():
            is_staged = isinstance(module, Stage) and name != SMALL
            yield name, state if is_staged else (pixels,)
            if is_staged and not module.is_last:
                state = tuple(TorchGraph(module).run(*state)[2:])


def _batches(images: Array, batch: int) -> list[Array]:
    """Batches of exactly `batch`; the images are gone through again where they are too few."""
    count = max(1, len(images) // batch)
    return [images[np.arange(index * batch, (index + 1) * batch) % len(images)] for index in range(count)]
