"""One or several graphs as one tower, pixels to features: who runs what, decided image by image, without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .options import Options
from .runtimes import Array, Graph
from .tokens.detail import detail_bits

Tower = Callable[[Array], Array]
"""Pixels (batch, 3, side, side) to features (batch, tokens, dim)."""

MAIN, SMALL, STAGE = "main", "small", "stage"


def tower_of(options: Options, graphs: Mapping[str, Graph]) -> Tower:
    """The tower that `options` describe, of the graphs that were made for them."""
    main: Tower
    if options.exits:
        stages = [graphs[f"{STAGE}{index}"] for index in range(len(options.exits) + 1)]
        main = Exiting(stages, options.exit_sureness)
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

    def __init__(self, stages: Sequence[Graph], thresholds: Sequence[float]) -> None:
        assert len(stages) == len(thresholds) + 1
        self._stages, self._thresholds = stages, thresholds
        self.left_at = [0] * len(stages)
        """How many images left after each stage."""

    def __call__(self, pixels: Array) -> Array:
        """Features (batch, tokens, dim) of pixels (batch, 3, side, side)."""
        waiting = np.arange(len(pixels))
        state: list[Array] = [pixels]
        features: Array | None = None
        for index, stage in enumerate(self._stages):
            made, *rest = stage.run(*state)
            if features is None:
                features = np.empty((len(pixels), *made.shape[1:]), np.float32)
            if not rest:
                features[waiting] = made
                self.left_at[index] += len(waiting)
                break
            is_sure = rest[0] >= self._thresholds[index]
            features[waiting[is_sure]] = made[is_sure]
            self.left_at[index] += int(is_sure.sum())
            waiting = waiting[~is_sure]
            if not len(waiting):
                break
            state = [array[~is_sure] for array in rest[1:]]
        assert features is not None
        return features
