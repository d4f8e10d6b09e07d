"""A plain model and options become graphs: fitted, exported, quantised, compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..protocol.errors import InvalidValue
from .bridge import BridgeFit, fit_bridge
from .depth.exits import Asked, FirstLook, LastStage, Leaving, Stage, Tried, Worth, stages_of, thresholds_for
from .export import check, exported
from .options import Options, Precision
from .quantization import dynamic_int8, static_int8
from .reduced import ReducedVit
from .runtimes import Array, Graph, Runtime, open_graph
from .runtimes.torch_graph import TorchGraph
from .shortcuts import Shortcuts, Slim
from .tokens.detail import detail_bits
from .towers import LEAVE, MAIN, SMALL, STAGE, Tower, left, tower_of
from .vit import VisionTransformer
from .weights.slim import slim

CALIBRATION_IMAGES = 32
"""Images that ranges of activations are measured on."""
_CHUNK = 64  # images in one pass while fitting


@dataclass(frozen=True, slots=True)
class Built:
    """What `build` made: options with all that was found on images, the files (none for torch), and the tower."""

    options: Options
    files: dict[str, bytes]
    tower: Tower
    tried: Tried | None = None
    """With exits, what they were worth: for other thresholds without another fit."""

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
    asked: Asked | None = None,
    plain: Array | None = None,
) -> Built:
    """Make the tower that `options` describe. `images` (count, 3, side, side) are what it is fitted and calibrated on.

    `plain` are the plain model's features of those images, if they are at hand. `asked` is what those who leave early
    or are seen small are to have in the mean.

    Graphs are for batches of exactly `batch`, in which exits and routes are not possible beyond 1 except with torch.
    """
    needs_images = options.is_fitted or options.precision in (Precision.INT8_STATIC, Precision.INT8_BFLOAT16)
    if needs_images and images is None:
        raise InvalidValue(f"{options}: it is fitted on images, and there are none")
    wanted = None
    if options.is_fitted:
        assert images is not None
        wanted = torch.from_numpy(plain) if plain is not None else through(model, torch.from_numpy(images))
    options, modules, tried = fitted(model, options, images, wanted, asked or Asked())
    if options.runtime is Runtime.TORCH:
        graphs: dict[str, Graph] = {
            name: TorchGraph(module, is_bfloat16=options.precision.is_bfloat16) for name, module in modules.items()
        }
        return Built(options, {}, tower_of(options, graphs), tried)
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
    return Built(options, files, tower_of(options, graphs), tried)


def fitted(
    model: VisionTransformer, options: Options, images: Array | None, wanted: Tensor | None, asked: Asked
) -> tuple[Options, dict[str, nn.Module], Tried | None]:
    """The options with the thresholds that were found for them, the modules that they describe, and how exits did.

    `wanted` are the plain model's features of `images`.
    """
    pixels = None if images is None else torch.from_numpy(images)
    options.slim.check(options.shortcuts, model.shape.depth)
    is_bridged = options.shortcuts.is_bridged and options.slim != Slim()  # even where nothing else is cut
    if options.slim != Slim():
        assert pixels is not None
        model = slim(model, options.slim, pixels)
    modules: dict[str, nn.Module] = {}
    if asked.agreement and not isinstance(model.head, nn.Linear):
        raise InvalidValue(f"an agreement of {asked.agreement:g}: the model has no head that says classes")
    if options.small_side:
        assert pixels is not None
        assert wanted is not None
        small = replace(options.shortcuts, side=options.small_side)
        if options.is_cascade:
            options, modules[SMALL] = _first_look(model, options, small, pixels, wanted, asked)
        else:
            options, modules[SMALL] = _routed(model, options, small, pixels, wanted, asked)
    if options.exits:
        assert pixels is not None
        assert wanted is not None
        options, stages, tried = _with_exits(model, options, pixels, wanted, asked)
        return options, modules | stages, tried
    return options, modules | {MAIN: bridged(model, options.shortcuts, pixels, wanted, is_bridged)}, None


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


def _routed(
    model: VisionTransformer, options: Options, shortcuts: Shortcuts, pixels: Tensor, wanted: Tensor, asked: Asked
) -> tuple[Options, ReducedVit]:
    """What sees plain pictures small, and how plain they must be."""
    reduced = ReducedVit(model, shortcuts).eval()
    made = through(reduced, pixels)
    if shortcuts.is_bridged:
        fit = BridgeFit(made, wanted)
        reduced.bridge, made = fit.bridge(), fit.held_out()
    if not options.small_bits:
        worth = Worth.of(model, made, wanted)
        plainness = np.array([-detail_bits(picture) for picture in pixels.numpy()], np.float32)
        (threshold,) = thresholds_for([plainness], [worth], asked)
        options = replace(options, small_bits=-threshold)
    return options, reduced


def _first_look(
    model: VisionTransformer, options: Options, shortcuts: Shortcuts, pixels: Tensor, wanted: Tensor, asked: Asked
) -> tuple[Options, FirstLook]:
    """What sees everybody small, and how sure one must be to need no more."""
    reduced = ReducedVit(model, shortcuts).eval()
    stage = Stage(reduced, reduced.run, is_first=True)
    (sureness, worth), _ = _tried(stage, (pixels,), wanted, shortcuts.is_bridged)
    if not options.small_sureness:
        (threshold,) = thresholds_for([sureness], [worth], asked)
        options = replace(options, small_sureness=threshold)
    return options, FirstLook(stage)


def _with_exits(
    model: VisionTransformer, options: Options, pixels: Tensor, wanted: Tensor, asked: Asked
) -> tuple[Options, dict[str, nn.Module], Tried]:
    shape = model.shape
    for block in options.exits:
        if not 0 < block < (options.shortcuts.depth or shape.depth):
            raise InvalidValue(f"exit after {block} blocks: the model has {shape.depth}")
    reduced = ReducedVit(model, options.shortcuts).eval()
    is_whole = options.shortcuts == Shortcuts(is_bridged=True) and options.slim == Slim()
    stages = stages_of(reduced, options.exits)
    state: tuple[Tensor, ...] = (pixels,)
    tried = Tried([], [])
    for stage in stages[:-1]:
        (sure, worth), state = _tried(stage, state, wanted, options.shortcuts.is_bridged)
        tried.sureness.append(sure)
        tried.worths.append(worth)
    if options.shortcuts.is_bridged and not is_whole:
        made, *_ = _through_stage(stages[-1], state)
        stages[-1].bridge = fit_bridge(made, wanted)
    if not options.exit_sureness:
        options = replace(options, exit_sureness=tried.thresholds(asked))
    modules: dict[str, nn.Module] = {}
    for index, stage in enumerate(stages[:-1]):
        modules |= {f"{STAGE}{index}": stage, f"{LEAVE}{index}": Leaving(stage)}
    return options, modules | {f"{STAGE}{len(stages) - 1}": LastStage(stages[-1])}, tried


def _tried(
    stage: Stage, state: tuple[Tensor, ...], wanted: Tensor, is_bridged: bool
) -> tuple[tuple[Array, Worth], tuple[Tensor, ...]]:
    """Fit a stage's bridge; how sure images are there and what they would leave with, and what the next stage takes.

    Sure and worth are over a bridge that was fitted on other images.
    """
    made, unchanged, after = _through_stage(stage, state)
    if is_bridged:
        fit = BridgeFit(made, wanted)
        stage.bridge, made = fit.bridge(), fit.held_out()
    with torch.inference_mode():
        sureness = stage.sureness_of(made, unchanged)
    return (sureness.numpy(), Worth.of(stage.reduced.model, made, wanted)), after


@torch.inference_mode()
def _through_stage(stage: Stage, state: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    chunks = [stage.run(*chunk) for chunk in zip(*(torch.split(tensor, _CHUNK) for tensor in state), strict=True)]
    made, unchanged, states = zip(*chunks, strict=True)
    return torch.cat(made), torch.cat(unchanged), tuple(map(torch.cat, zip(*states, strict=True)))


@torch.inference_mode()
def through(module: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    """The features of many images, in passes of some."""
    return torch.cat([module(chunk) for chunk in torch.split(pixels, _CHUNK)])


def _files(options: Options, modules: Mapping[str, nn.Module], examples: Array, batch: int) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    calibration: dict[str, list[tuple[Array, ...]]] = {name: [] for name in modules}
    count = CALIBRATION_IMAGES if options.precision in (Precision.INT8_STATIC, Precision.INT8_BFLOAT16) else 1
    for name, inputs in _inputs(modules, _batches(examples[:count], batch)):
        calibration[name].append(inputs)
    for name, module in modules.items():
        inputs = calibration[name][0]
        outputs = ["features", "sureness"] if isinstance(module, FirstLook) else ["features"]
        if isinstance(module, Stage):
            outputs = ["sureness", "tokens", "sizes", "where"][: len(TorchGraph(module).run(*inputs))]
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
            if isinstance(module, Leaving):
                yield name, left(state)
            elif isinstance(module, Stage | LastStage):
                yield name, state
            else:
                yield name, (pixels,)
            if isinstance(module, Stage):
                state = tuple(TorchGraph(module).run(*state)[1:])


def _batches(images: Array, batch: int) -> list[Array]:
    """Batches of exactly `batch`; the images are gone through again where they are too few."""
    count = max(1, len(images) // batch)
    return [images[np.arange(index * batch, (index + 1) * batch) % len(images)] for index in range(count)]
