"""One or several graphs as one tower, pixels to features: who runs what, decided image by image, without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .options import Options
from .runtimes import Array, Graph
from .tokens.detail import detail_bits

Tower = Callable[[Array], Array]
"""Pixels (batch, 3, side, side) to features (batch, tokens, dim)."""

MAIN, SMALL, STAGE, LEAVE = "main", "small", "stage", "leave"


def tower_of(options: Options, graphs: Mapping[str, Graph]) -> Tower:
    """The tower that `options` describe, of the graphs that were made for them."""
    main: Tower
    if options.exits:
        stages = [graphs[f"{STAGE}{index}"] for index in range(len(options.exits) + 1)]
        leaves = [graphs[f"{LEAVE}{index}"] for index in range(len(options.exits))]
        main = Exiting(stages, leaves, options.exit_sureness)
    else:
        main = Single(graphs[MAIN])
    if options.is_cascade:
        return Cascade(graphs[SMALL], main, options.small_sureness)
    return Routed(Single(graphs[SMALL]), main, options.small_bits) if options.small_side else main


class Single:
    """One graph for every image."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def __call__(self, pixels: Array) -> Array:
        return self._graph.run(pixels)[0]


class Routed:
    """Images with up to `bits` of detail go to the tower that sees them small, the others to the full one."""

    def __init__(self, small: Tower, main: Tower, bits: float) -> None:
        self.small, self.main, self._bits = small, main, bits
        self.went_small = 0
        """How many images were seen small."""

    def __call__(self, pixels: Array) -> Array:
        is_small = np.array([detail_bits(picture) <= self._bits for picture in pixels])
        self.went_small += int(is_small.sum())
        if is_small.all():
            return self.small(pixels)
        if not is_small.any():
            return self.main(pixels)
        small, main = self.small(pixels[is_small]), self.main(pixels[~is_small])
        features = np.empty((len(pixels), *main.shape[1:]), np.float32)
        features[is_small], features[~is_small] = small, main
        return features


class Cascade:
    """Every image goes to the graph that sees it small; who is less sure than `sureness` goes on to the full tower."""

    def __init__(self, small: Graph, main: Tower, sureness: float) -> None:
        self._small, self.main, self._sureness = small, main, sureness
        self.went_small = 0
        """How many images needed no second look."""

    def __call__(self, pixels: Array) -> Array:
        features, sureness, *_ = self._small.run(pixels)
        is_unsure = sureness < self._sureness
        self.went_small += len(pixels) - int(is_unsure.sum())
        if is_unsure.all():
            return self.main(pixels)
        if is_unsure.any():
            features = features.copy()  # the runtime's own memory, perhaps
            features[is_unsure] = self.main(pixels[is_unsure])
        return features


class Exiting:
    """A tower of stages. A batch shrinks on its way: who is sure leaves, the others go on together."""

    def __init__(self, stages: Sequence[Graph], leaves: Sequence[Graph], thresholds: Sequence[float]) -> None:
        assert len(stages) - 1 == len(leaves) == len(thresholds)
        self._stages, self._leaves, self._thresholds = stages, leaves, thresholds
        self.left_at = [0] * len(stages)
        """How many images left after each stage."""

    def __call__(self, pixels: Array) -> Array:
        """Features (batch, tokens, dim) of pixels (batch, 3, side, side)."""
        waiting = np.arange(len(pixels))
        state: tuple[Array, ...] = (pixels,)
        made: list[tuple[NDArray[np.int64], Array]] = []  # who left with what
        for index, (stage, leave, threshold) in enumerate(
            zip(self._stages, self._leaves, self._thresholds, strict=False)  # the last stage is nobody's choice
        ):
            sureness, *after = stage.run(*state)
            is_sure = sureness >= threshold
            self.left_at[index] += int(is_sure.sum())
            if is_sure.any():
                made.append((waiting[is_sure], leave.run(*left([array[is_sure] for array in after]))[0]))
            waiting, state = waiting[~is_sure], tuple(array[~is_sure] for array in after)
            if not len(waiting):
                break
        else:
            self.left_at[-1] += len(waiting)
            made.append((waiting, self._stages[-1].run(*state)[0]))
        if len(made) == 1:
            return made[0][1]
        features = np.empty((len(pixels), *made[0][1].shape[1:]), np.float32)
        for who, what in made:
            features[who] = what
        return features


def left(state: Sequence[Array]) -> tuple[Array, ...]:
    """What features are made of, of all that a stage leaves: tokens and, if some are merged, where all are."""
    return tuple(state[::2])  # and not the sizes between them
