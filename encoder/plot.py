"""Speed against fidelity: a colour for each kind of shortcut, and the front of what nothing else beats in both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from .measure import Row
from .runtimes import needing

LOSS_SHOWN_MIN = 1e-4  # a logarithmic axis has no zero, and nobody sees less
POINTS_SHOWN_MIN = -12.0
"""Points of top-1 below which nobody wants it: drawn at the edge."""
POINTS_BORNE = 0.5
"""What most would give for speed; a line is drawn there."""

SLOW_SHOWN_MAX = 1.6
"""Times the first row's time, beyond which nobody looks: bfloat16 where the processor has none takes ten and more."""

ALONE, TOGETHER, OTHER = "a runtime alone", "several together", "other"
KINDS = {
    "smaller input": ("side ",),
    "seen small if that will do": ("small ", "cascade "),
    "fewer tokens": ("merge ", "prune ", "of the patches"),
    "leaving early": ("exits ",),
    "fewer blocks": ("skip ", "depth ", "trained on features", "half of the blocks"),
    "another attention": ("window", "shifted", "linear:", "performer", "linformer", "grouped", "kernels ", "allowed"),
    "fewer or smaller weights": ("heads", "channels", "products", "zeros", "groups of", "INT8 where", "float16"),
}
"""Kinds of shortcuts, by words in a row's name."""
COLOURS = {ALONE: "black", TOGETHER: "tab:red", OTHER: "tab:gray"} | dict(
    zip(KINDS, ("tab:blue", "tab:cyan", "tab:green", "tab:orange", "tab:brown", "tab:pink", "tab:purple"), strict=True)
)


def front(rows: Sequence[Row], truths: Sequence[float]) -> list[int]:
    """Places of rows that no other beats in both speed and truth, the fastest first."""
    best: list[int] = []
    for place in sorted(range(len(rows)), key=lambda place: (rows[place].ms, -truths[place])):
        if not best or truths[place] > truths[best[-1]]:
            best.append(place)
    return best


def kind_of(name: str) -> str:
    """What kind of shortcut a row's name tells of; bridges and what is asked are none."""
    if ", " not in name:
        return ALONE
    said = name.partition(", ")[2]
    kinds = [kind for kind, words in KINDS.items() if any(word in said for word in words)]
    return TOGETHER if len(kinds) > 1 else kinds[0] if kinds else OTHER


def draw(rows: Sequence[Row], title: str, path: Path, points: Sequence[float] | None = None) -> None:
    """Write the plot, of cosines, or of `points` of top-1 above the plain model's; needs the `tune` extra.

    The first row is the plain model's.
    """
    with needing("tune"):
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot, ticker
    shown = [place for place, row in enumerate(rows) if row.ms <= SLOW_SHOWN_MAX * rows[0].ms]
    rows, points = [rows[place] for place in shown], points and [points[place] for place in shown]
    if points is None:
        heights = [max(1 - row.cosine_mean, LOSS_SHOWN_MIN) for row in rows]
        best = told = front(rows, [-height for height in heights])
    else:
        heights = [max(point, POINTS_SHOWN_MIN) for point in points]
        best = front(rows, [min(point, 0.0) for point in points])  # more than the plain model's is chance
        told = list(dict.fromkeys([*best, *_fastest(rows, points)]))
    figure, axes = pyplot.subplots(figsize=(12, 7))
    for kind, colour in COLOURS.items():
        chosen = [place for place, row in enumerate(rows) if kind_of(row.name) == kind]
        if chosen:
            x, y = [rows[place].ms for place in chosen], [heights[place] for place in chosen]
            marker, size = ("s", 45) if kind == ALONE else ("D" if kind == TOGETHER else "o", 40)
            axes.scatter(x, y, s=size, c=colour, marker=marker, label=kind, edgecolors="white", linewidths=0.5)
    axes.plot([rows[place].ms for place in best], [heights[place] for place in best], color="grey", lw=1, zorder=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel(f"milliseconds per image (left is faster; up to {SLOW_SHOWN_MAX:g} × the plain model's)")
    if points is None:
        axes.set_yscale("log")
        axes.set_ylim(1.1, LOSS_SHOWN_MIN * 0.75)
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        most = 1.01 * LOSS_SHOWN_MIN
        say = ticker.FuncFormatter(lambda loss, _: f"{'≥ ' if loss < most else ''}{1 - loss:.4g}")
        axes.yaxis.set_major_formatter(say)
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        axes.set_ylabel("mean cosine to the plain model's features (up is truer)")
    else:
        axes.set_ylabel(f"points of top-1 above the plain model's; at the edge: {POINTS_SHOWN_MIN:g} or less")
        axes.axhline(-POINTS_BORNE, color="grey", lw=0.8, ls=":")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    axes.margins(x=0.12)
    figure.tight_layout()
    figure.canvas.draw()  # now points have their places
    _label(axes, [(rows[place].ms, heights[place], _short(rows[place].name)) for place in told], rows, heights)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _fastest(rows: Sequence[Row], points: Sequence[float]) -> list[int]:
    """Of each kind, the fastest that loses no more than is borne."""
    borne = sorted((place for place, lost in enumerate(points) if lost >= -POINTS_BORNE), key=lambda i: -rows[i].ms)
    return list({kind_of(rows[place].name): place for place in borne}.values())


def _short(name: str) -> str:
    said = name.partition(", ")[2]
    return name if said in ("", "bridged") else said.replace(", bridged", "").replace(" of the classes", "")


def _label(
    axes: Any, labels: Sequence[tuple[float, float, str]], rows: Sequence[Row], heights: Sequence[float]
) -> None:
    """Write labels beside their points, each where it is nearest without covering a point or another label."""
    from matplotlib.text import Text

    figure = axes.figure
    renderer, frame = figure.canvas.get_renderer(), axes.get_window_extent()
    marks = [axes.transData.transform((row.ms, height)) for row, height in zip(rows, heights, strict=True)]
    taken: list[Any] = []
    for x, y, text in labels:
        for dx, dy, side in _places():
            note = axes.annotate(
                text, (x, y), (dx, dy), textcoords="offset points", fontsize=8, ha=side, va="center",
                arrowprops={"arrowstyle": "-", "color": "grey", "lw": 0.6, "shrinkA": 0, "shrinkB": 3},
            )  # fmt: skip
            note.update_positions(renderer)
            words = Text.get_window_extent(note, renderer).expanded(1.02, 1.1)  # without its line
            is_inside = frame.x0 <= words.x0 and words.x1 <= frame.x1 and frame.y0 <= words.y0 and words.y1 <= frame.y1
            is_free = not any(words.overlaps(other) for other in taken) and not any(
                words.contains(*mark) for mark in marks
            )
            if is_inside and is_free:
                taken.append(words)
                break
            note.remove()


def _places() -> Iterator[tuple[float, float, str]]:
    """Offsets in points to try for a label, the nearest first."""
    tries = product((8, 16, 30, 50, 80), (0, 8, -8, 16, -16, 28, -28, 45, -45, 65, -65, 90, -90), ("left", "right"))
    for dx, dy, side in sorted(tries, key=lambda one: one[0] ** 2 + (1.5 * one[1]) ** 2):
        yield (dx if side == "left" else -dx), dy, side
