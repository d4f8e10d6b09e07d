"""How fast, how true, how large: one row for each configuration of an encoder, measured on this device."""

from __future__ import annotations

import asyncio
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from . import profile as profiles
from .build import Built
from .image_set import ImageSet
from .probe import ridge_fit
from .profile import Origin, Profile
from .runtimes import Array
from .torch_encoder import TorchEncoder
from .towers import Tower
from .vit import VisionTransformer
from .worker import EncoderWorker

Classifier = Callable[[Tensor], Tensor]
"""Pooled features (images, dim) to classes (images)."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one configuration."""

    name: str
    ms: float
    """Milliseconds per image, decoding not included."""
    speedup: float = 0.0
    """How many times as fast as the plain model in float32 with torch."""
    over_strongest: float = 0.0
    """How many times as fast as the fastest runtime that leaves nothing out."""
    cosine_mean: float = 1.0
    cosine_min: float = 1.0
    cosine_token: float = 1.0
    """Mean over single tokens rather than whole features."""
    top1: float | None = None
    """Share of right classes; None without labels."""
    megabytes: float = 0.0
    """Of the model's files, or of the plain weights in float32."""
    peak_megabytes: float | None = None
    """Memory of a node's worker process at its highest, after some images."""
    first_s: float | None = None
    """From the worker's start to its first features."""
    millijoules: float | None = None
    """Per image, of the whole package, where the device has a meter."""


def milliseconds(
    towers: Mapping[str, Tower],
    pixels: Array,
    *,
    batch: int = 1,
    rounds: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Milliseconds per image of each tower: for each image its fastest round, and of those the mean.

    The towers take turns, image by image, so that a busy moment of the device is nobody's alone. The mean and not the
    median over images, since with exits and routes some cost less than others. `clock` counts seconds; on a machine
    with other work `time.process_time` counts those that one thread really had.
    """
    batches = [pixels[start : start + batch] for start in range(0, len(pixels) - batch + 1, batch)]
    best = {name: [float("inf")] * len(batches) for name in towers}
    for tower in towers.values():
        tower(batches[0])  # the first call allocates
    for _ in range(rounds):
        for index, pictures in enumerate(batches):
            for name, tower in towers.items():
                started = clock()
                tower(pictures)
                best[name][index] = min(best[name][index], clock() - started)
    return {name: 1000 * float(np.mean(times)) / batch for name, times in best.items()}


def features_of(tower: Tower, pixels: Array, batch: int = 1) -> Array:
    """The features of every image."""
    made = []
    for start in range(0, len(pixels), batch):
        chunk = pixels[start : start + batch]
        short = batch - len(chunk)
        padded = np.concatenate([chunk, chunk[:1].repeat(short, axis=0)]) if short else chunk
        made.append(tower(padded)[: len(chunk)])
    return np.concatenate(made)


def fidelity(row: Row, made: Array, plain: Array, labels: NDArray[np.int64] | None, classify: Classifier | None) -> Row:
    """`row` with its cosines to the plain model's features, and its top-1 where classes are known."""
    a, b = torch.from_numpy(made), torch.from_numpy(plain)
    whole = F.cosine_similarity(a.flatten(1), b.flatten(1))
    top1 = None
    if labels is not None and classify is not None:
        top1 = float((classify(a.mean(dim=1)) == torch.from_numpy(labels)).double().mean())
    return replace(
        row,
        cosine_mean=float(whole.mean()),
        cosine_min=float(whole.min()),
        cosine_token=float(F.cosine_similarity(a, b, dim=-1).mean()),
        top1=top1,
    )


def classifier_for(model: VisionTransformer, fitted: ImageSet, plain: Array) -> Classifier | None:
    """Who reads the features: the model's own head, or a linear probe fitted on the plain model's (`plain`).

    Both were made for the plain features, as whatever reads a cache was.
    """
    if isinstance(model.head, nn.Linear):
        head = model.head
        return lambda pooled: head(pooled).argmax(dim=1)
    if fitted.labels is None:
        return None
    probe = ridge_fit(torch.from_numpy(plain).mean(dim=1), torch.from_numpy(fitted.labels))
    return lambda pooled: probe(pooled).argmax(dim=1)


def millijoules(tower: Tower, pixels: Array, meters: Sequence[Path]) -> float | None:
    """Per image, by the package's meters (powercap); None where there is none."""
    if not meters:
        return None
    before = sum(int(meter.read_text()) for meter in meters)
    for picture in pixels:
        tower(picture[None])
    after = sum(int(meter.read_text()) for meter in meters)
    return (after - before) / 1000 / len(pixels) if after >= before else None  # a counter that wrapped says nothing


def energy_meters(root: Path = Path("/sys/class/powercap")) -> list[Path]:
    """The energy counters of this device's packages that we may read."""
    meters = []
    for meter in sorted(root.glob("intel-rapl:?/energy_uj")):
        try:
            int(meter.read_text())
        except (OSError, ValueError):
            continue
        meters.append(meter)
    return meters


def relate(rows: Sequence[Row], whole: Sequence[bool]) -> list[Row]:
    """Rows with their speed-ups over the first, and over the fastest of those that leave nothing out."""
    strongest = min(row.ms for row, is_whole in zip(rows, whole, strict=True) if is_whole)
    return [replace(row, speedup=rows[0].ms / row.ms, over_strongest=strongest / row.ms) for row in rows]


def about(encoder: TorchEncoder, images: int, *, threads: int, batch: int = 1) -> dict[str, Any]:
    """What rows were measured on."""
    return {
        "encoder": str(encoder.identity),
        "device": f"{processor_name()}, {os.cpu_count()} cores, {platform.system()}",
        "threads": threads,
        "batch": batch,
        "images": images,
        "torch": str(torch.__version__),
    }


def processor_name() -> str:
    """What the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def origin_of(spec: str, encoder: TorchEncoder) -> Origin:
    """The plain encoder as a profile names it."""
    identity = encoder.identity
    return Origin(spec, identity.name, identity.version, identity.fingerprint.hex())


def profile_of(spec: str, encoder: TorchEncoder, built: Built, measured: dict[str, Any]) -> Profile:
    """The profile of what was built."""
    origin = origin_of(spec, encoder)
    return Profile(profiles.FORMAT, origin, encoder.shape, encoder.preprocessing, built.options, measured=measured)


async def in_a_node(row: Row, spec: str, encoder: TorchEncoder, built: Built, image: bytes, threads: int) -> Row:
    """`row` with what a node's worker needs for it: memory at its highest, and seconds to the first features."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "profile.toml"
        profiles.write(path, profile_of(spec, encoder, built, {}), built.files)
        started = time.perf_counter()
        worker = EncoderWorker(str(path), threads=threads)
        try:
            await worker.encode(image)
            first_s = time.perf_counter() - started
            for _ in range(3):
                await worker.encode(image)
            peak = await asyncio.to_thread(peak_megabytes, worker.process_id)
        finally:
            await worker.close()
    return replace(row, peak_megabytes=peak, first_s=first_s)


def peak_megabytes(process: int | None) -> float | None:
    """Memory of a process at its highest so far; None where the system does not tell."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # not Linux
        return None
    return next((int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmHWM")), None)


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table."""
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("configuration", lambda row: row.name),
        ("ms", lambda row: f"{row.ms:.2f}"),
        ("× plain", lambda row: f"{row.speedup:.2f}"),
        ("× strongest", lambda row: f"{row.over_strongest:.2f}"),
        ("cosine mean", lambda row: f"{row.cosine_mean:.4f}"),
        ("min", lambda row: f"{row.cosine_min:.4f}"),
        ("token", lambda row: f"{row.cosine_token:.4f}"),
        ("top-1", lambda row: "no labels" if row.top1 is None else f"{row.top1:.2%}"),
        ("MB", lambda row: f"{row.megabytes:.1f}"),
        ("peak MB", lambda row: "not asked" if row.peak_megabytes is None else f"{row.peak_megabytes:.0f}"),
        ("first s", lambda row: "not asked" if row.first_s is None else f"{row.first_s:.2f}"),
        ("mJ", lambda row: "no meter" if row.millijoules is None else f"{row.millijoules:.1f}"),
    ]
    lines = ["| " + " | ".join(name for name, _ in columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(show(row) for _, show in columns) + " |" for row in rows]
    return "\n".join(lines)


def as_json(rows: Sequence[Row], about: Mapping[str, Any]) -> bytes:
    """Rows as JSON, with what they were measured on."""
    return msgspec.json.format(msgspec.json.encode({**about, "results": rows}), indent=2)
