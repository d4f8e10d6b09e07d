"""Speed against fidelity, with the front of what nothing else beats in both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from .measure import Row
from .runtimes import needing

LOSS_SHOWN_MIN = 1e-7  # a logarithmic axis has no zero


def front(rows: Sequence[Row], truth: Callable[[Row], float] = lambda row: row.cosine_mean) -> list[Row]:
    """Rows that no other beats in both speed and `truth`, fidelity if not told, the fastest first."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.ms, -truth(row))):
        if not best or truth(row) > truth(best[-1]):
            best.append(row)
    return best


def draw(rows: Sequence[Row], title: str, path: Path, *, is_top1: bool = False) -> None:
    """Write the plot, of cosines, or of top-1 where all rows have one; needs the `tune` extra (matplotlib)."""
    with needing("tune"):
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot, ticker
    height: Callable[[Row], float] = (lambda row: 100 * (row.top1 or 0.0)) if is_top1 else _loss
    figure, axes = pyplot.subplots(figsize=(11, 7))
    for runtime, colour in (("torch", "tab:blue"), ("onnx", "tab:orange"), ("openvino", "tab:green")):
        for whole, marker in ((True, "s"), (False, "o")):
            chosen = [r for r in rows if r.name.startswith(runtime) and (", " not in r.name) == whole]
            if chosen:
                label = f"{runtime}, {'nothing left out' if whole else 'with shortcuts'}"
                axes.scatter(
                    [r.ms for r in chosen], [height(r) for r in chosen], s=36, c=colour, marker=marker, label=label
                )
    best = front(rows, (lambda row: row.top1 or 0.0) if is_top1 else (lambda row: row.cosine_mean))
    axes.plot([r.ms for r in best], [height(r) for r in best], color="grey", linewidth=1, zorder=0)
    for number, row in enumerate(best):
        name = row.name.partition(", ")[2] or row.name
        axes.annotate(
            name, (row.ms, height(row)), xytext=(6, 5 if number % 2 else -10), textcoords="offset points", fontsize=7
        )
    axes.set_xscale("log")
    if not is_top1:
        axes.set_yscale("log")
    for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        which(ticker.FormatStrFormatter("%g"))
    if not is_top1:
        axes.invert_yaxis()
    axes.set_xlabel("milliseconds per image (left is faster)")
    axes.set_ylabel("top-1, %" if is_top1 else "1 - mean cosine to the plain model's features (up is truer)")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="best")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _loss(row: Row) -> float:
    return max(1 - row.cosine_mean, LOSS_SHOWN_MIN)
