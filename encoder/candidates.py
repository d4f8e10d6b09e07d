"""Which configurations are worth measuring: every runtime alone, every shortcut alone, and some that go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from .options import PRECISIONS, Options, Precision
from .runtimes import Runtime
from .shortcuts import Shortcuts, Slim
from .vit import SWIGLU, VitShape

# Tokens merged away over the whole depth, as shares of all. In a ViT-S/16 these are r = 4, 8, 11 and 13.
MERGED_SHARES = (0.25, 0.5, 0.65, 0.8)
SIDE_SHARES = (0.75, 0.5)
HEAD_SHARES = (2 / 3,)
CHANNEL_SHARES = (0.9, 0.75, 0.5)
RANK_SHARES = (0.75, 0.5)
PRUNE_SCHEDULES = ((1.0, 0.9, 0.8, 0.7), (1.0, 0.75, 0.5, 0.25))


def plain() -> Options:
    """What everything is compared with: torch, float32, nothing left out."""
    return Options()


def runtimes_alone(installed: Sequence[Runtime]) -> list[Options]:
    """Every runtime in every precision that it has, leaving nothing out."""
    return [Options(runtime, precision) for runtime in installed for precision in PRECISIONS[runtime]]


def installed_runtimes() -> list[Runtime]:
    """What can be imported here, torch first."""
    from importlib.util import find_spec

    packages = {Runtime.TORCH: "torch", Runtime.ONNX: "onnxruntime", Runtime.OPENVINO: "openvino"}
    return [runtime for runtime, package in packages.items() if find_spec(package) is not None]


def merges(shape: VitShape) -> list[int]:
    """Tokens to merge in each block."""
    counts = [round(share * shape.grid_side**2 / shape.depth) for share in MERGED_SHARES]
    return sorted({count for count in counts if count})


def sides(shape: VitShape) -> list[int]:
    """Smaller inputs, the largest first."""
    made = {round(share * shape.grid_side) * shape.patch_side for share in SIDE_SHARES}
    return sorted((side for side in made if 0 < side < shape.image_side), reverse=True)


def shortcuts_alone(shape: VitShape, least_needed: Sequence[int]) -> list[Options]:
    """Each technique by itself, without and with a bridge. `least_needed`: blocks, the most dispensable first."""
    depth = shape.depth
    cuts = [Shortcuts(merge=count) for count in merges(shape)]
    cuts += [Shortcuts(side=side) for side in sides(shape)]
    cuts += [Shortcuts(prune=schedule, prune_by=by) for schedule in PRUNE_SCHEDULES for by in ("attention", "norm")]
    cuts += [Shortcuts(skip=(least_needed[0],)), Shortcuts(skip=tuple(sorted(least_needed[: max(2, depth // 6)])))]
    cuts += [Shortcuts(depth=depth - 1), Shortcuts(depth=depth // 2)]
    cuts += [Shortcuts(attention=name) for name in attentions(shape)]
    bridged = [replace(cut, is_bridged=True) for cut in cuts]
    made = [Options(shortcuts=cut) for pair in zip(cuts, bridged, strict=True) for cut in pair]
    made += [Options(shortcuts=Shortcuts(is_bridged=True), exits=exits) for exits in exits_of(depth)]
    made += [Options(shortcuts=Shortcuts(is_bridged=True), small_side=side) for side in sides(shape)]
    made += [Options(shortcuts=Shortcuts(is_bridged=True), small_side=side, is_cascade=True) for side in sides(shape)]
    made += [
        Options(shortcuts=Shortcuts(is_bridged=is_bridged), slim=slim)
        for slim in slims(shape, least_needed)
        for is_bridged in (False, True)
    ]
    return made


def slims(shape: VitShape, least_needed: Sequence[int]) -> list[Slim]:
    """Fewer weights. `least_needed` as in `shortcuts_alone`: those blocks' attention is most easily a kernel's."""
    made = [Slim(heads=share) for share in HEAD_SHARES if round(share * shape.heads) < shape.heads]
    if shape.activation != SWIGLU:
        made += [Slim(channels=share) for share in CHANNEL_SHARES] + [Slim(rank=share) for share in RANK_SHARES]
    kernels = {tuple(sorted(least_needed[:count])) for count in (1, max(1, shape.depth // 4))}
    return made + [Slim(kernels=blocks) for blocks in sorted(kernels)]


def attentions(shape: VitShape) -> list[str]:
    """Other ways to look that fit the model."""
    half = next((side for side in range(shape.grid_side // 2, 1, -1) if shape.grid_side % side == 0), 0)
    windows = [f"window:{half}", f"shifted:{half}"] if half else []
    fewer = max(1, shape.grid_side**2 // 4)
    groups = [f"grouped:{shape.heads // 2}"] if shape.heads % 2 == 0 else ["grouped:1"]
    return [
        *windows,
        "linear:elu",
        "linear:relu",
        "linear:relu2",
        "performer:128",
        f"linformer:{fewer}",
        *groups,
        "int8",
    ]


def exits_of(depth: int) -> list[tuple[int, ...]]:
    """Blocks after which an image may leave: half-way, after each quarter, or spread over the upper half.

    Spread is after 1/2, 2/3, 3/4 and 11/12 of the depth.
    """
    quarters = tuple(sorted({depth // 4, depth // 2, 3 * depth // 4} - {0, depth}))
    spread = tuple(sorted({round(depth * share / 12) for share in (6, 8, 9, 11)} - {0, depth}))
    made = [(depth // 2,), quarters, spread]
    return [exits for index, exits in enumerate(made) if exits and exits[0] and exits not in made[:index]]


def combinations(shape: VitShape) -> list[Options]:
    """What goes together, always with a bridge: merging with all else, and all that is decided image by image."""
    made = []
    for count, side, last in product([0, *merges(shape)], [0, *sides(shape)], [0, shape.depth - 1]):
        if bool(count) + bool(side) + bool(last) < 2:
            continue
        made.append(Options(shortcuts=Shortcuts(side=side, merge=count, depth=last, is_bridged=True)))
    for count in merges(shape):
        cuts = Shortcuts(merge=count, is_bridged=True)
        made += [Options(shortcuts=cuts, exits=exits) for exits in exits_of(shape.depth)[-1:]]
        made += [Options(shortcuts=cuts, small_side=side) for side in sides(shape)[:1]]
        if shape.activation != SWIGLU:
            made += [Options(shortcuts=cuts, slim=Slim(channels=share)) for share in CHANNEL_SHARES]
        made += [
            Options(shortcuts=cuts, exits=exits, small_side=side, is_cascade=is_cascade)
            for exits in exits_of(shape.depth)[-1:]
            for side in sides(shape)
            for is_cascade in (False, True)
        ]
    return made


def on(options: Options, runtime: Runtime, precision: Precision) -> Options:
    """The same shortcuts elsewhere."""
    return replace(options, runtime=runtime, precision=precision)
