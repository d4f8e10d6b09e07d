"""Train `edgecache/tiny` on labelled JPEG files and say how good it became.

    python -m edgecache.encoder.train_tiny --data cifar10_jpeg.npz --minutes 50 --out tiny.safetensors

The time is given, not the number of epochs, so that a run on a busy machine ends when it should; the learning rate and
the picture's size follow the clock. The seed fixes the first weights and the order of the pictures.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import vit_file
from .images import decoded
from .preprocessing import prepared
from .probe import neighbour_accuracy, ridge_accuracy
from .spec import TINY_PREPROCESSING
from .vit import VisionTransformer, VitShape

BATCH = 128
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
WARMUP = 0.08  # of the time
# Small pictures first: a step at 24 × 24 takes 0.6 of one at 32 × 32, so that more pictures fit into the same minutes.
SMALL_SIDE, SMALL_UNTIL = 24, 0.6
SHIFT_PIXELS = 3
CHECKPOINT_EVERY_S = 120.0


@dataclass(frozen=True, slots=True)
class Labelled:
    """Pictures as the node would hand them to the model, (images, 3, 32, 32) in float16, and their classes."""

    pixels: Tensor
    labels: Tensor

    @classmethod
    def read(cls, path: Path, part: str) -> Labelled:
        """The `train` or `test` part of an npz of JPEG files: PART_jpeg (all bytes), PART_off and PART_y."""
        with np.load(path) as data:
            files, offsets, labels = (data[f"{part}_{what}"] for what in ("jpeg", "off", "y"))
        pixels = np.empty((len(labels), 3, TINY_PREPROCESSING.height, TINY_PREPROCESSING.width), np.float16)
        for image, (start, end) in enumerate(pairwise(offsets)):
            pixels[image] = prepared(decoded(files[start:end].tobytes()), TINY_PREPROCESSING)
        return cls(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)))

    def shuffled(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of every picture once, moved and mirrored by chance."""
        order = torch.randperm(len(self.labels), generator=generator)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            yield _varied(self.pixels[chosen].float(), generator), self.labels[chosen]


def _varied(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture of a batch shifted by up to SHIFT_PIXELS and, half of the time, mirrored."""
    count, _, height, width = pixels.shape
    padded = F.pad(pixels, [SHIFT_PIXELS] * 4, mode="reflect")
    top, left = torch.randint(0, 2 * SHIFT_PIXELS + 1, (2, count, 1), generator=generator)
    rows, columns = top + torch.arange(height), left + torch.arange(width)  # (batch, side)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    image = torch.arange(count)[:, None, None]
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class Training:
    """A run that knows how far it is, and can be cut and resumed."""

    def __init__(self, model: VisionTransformer, minutes: float, checkpoint: Path) -> None:
        self.model = model
        self.optimizers = _optimizers(model)
        self.generator = torch.Generator().manual_seed(torch.initial_seed())
        self.steps = 0
        self._minutes = minutes
        self._checkpoint = checkpoint
        self._before_s = 0.0  # spent by the runs that this one resumes
        self._started = time.perf_counter()

    def run(self, data: Labelled) -> None:
        """Pass over the data until the time is spent; print a line every 100 steps."""
        self._started = time.perf_counter()
        saved_s = self._spent_s()
        recent: list[float] = []
        while True:
            for pixels, labels in data.shuffled(self.generator):
                progress = self._spent_s() / (60 * self._minutes)
                if progress >= 1:
                    return
                recent.append(self._step(pixels, labels, progress))
                if self.steps % 100 == 0:
                    epoch = self.steps * BATCH / len(data.labels)
                    print(f"{progress:6.1%}  epoch {epoch:5.2f}  loss {np.mean(recent):.3f}", flush=True)
                    recent.clear()
                if self._spent_s() - saved_s > CHECKPOINT_EVERY_S:
                    saved_s = self._spent_s()
                    self._save()

    def resume(self) -> None:
        """Take up the run that left the checkpoint."""
        state = torch.load(self._checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.generator.set_state(state["generator"])
        self.steps, self._before_s = state["steps"], state["spent_s"]

    def _step(self, pixels: Tensor, labels: Tensor, progress: float) -> float:
        if progress < SMALL_UNTIL:
            pixels = F.interpolate(pixels, (SMALL_SIDE, SMALL_SIDE), mode="bilinear", antialias=True)
        rate = LEARNING_RATE * rate_share(progress)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):  # 2.2 times the speed of float32 where the processor has AVX-512
            logits = self.model.classify(self.model(pixels))
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=LABEL_SMOOTHING)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.steps += 1
        return float(loss.detach())

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            "steps": self.steps,
            "spent_s": self._spent_s(),
        }
        torch.save(state, self._checkpoint.with_suffix(".new"))
        self._checkpoint.with_suffix(".new").replace(self._checkpoint)

    def _spent_s(self) -> float:
        return self._before_s + time.perf_counter() - self._started


def _optimizers(model: VisionTransformer) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for all else."""
    matrices = [weight for weight in model.blocks.parameters() if weight.ndim == 2]
    chosen = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in chosen]
    return [
        # Muon (Jordan et al., 2024) makes each update orthogonal; scaled to the size
        # of AdamW's, both take the same rate.
        torch.optim.Muon(matrices, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [
                {"params": [weight for weight in others if weight.ndim > 1], "weight_decay": WEIGHT_DECAY},
                {"params": [weight for weight in others if weight.ndim <= 1], "weight_decay": 0.0},
            ]
        ),
    ]


def rate_share(progress: float) -> float:
    """The learning rate as a share of its peak: a linear warm-up, then a cosine to nothing."""
    if progress < WARMUP:
        return progress / WARMUP + 1e-3
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))


def features_of(model: VisionTransformer, data: Labelled) -> Tensor:
    """The mean token of each picture, (images, dim), in float32 as the node computes it."""
    with torch.inference_mode():
        return torch.cat([model(pixels.float()).mean(dim=1) for pixels in torch.split(data.pixels, 250)])


def evaluate(weights: Path, train: Labelled, test: Labelled) -> None:
    """Print what the weights in a file are worth on the pictures that they have not seen."""
    model = vit_file.model_of(weights.read_bytes())
    known, asked = features_of(model, train), features_of(model, test)
    with torch.inference_mode():
        top1 = float((model.head(asked).argmax(dim=1) == test.labels).double().mean())
    print(f"{weights.name}, {len(test.labels)} held-out images, top-1 of the head: {top1:.2%}")
    print(f"ridge probe on mean tokens: {ridge_accuracy(known, train.labels, asked, test.labels):.2%}")
    print(f"k-NN on mean tokens: {neighbour_accuracy(known, train.labels, asked, test.labels):.2%}", flush=True)


def main() -> None:
    """Read the command line, train, save and evaluate."""
    parser = argparse.ArgumentParser(prog="python -m edgecache.encoder.train_tiny", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="npz of JPEG files and labels")
    parser.add_argument("--minutes", type=float, default=50.0, help="how long to train; 0 only evaluates --out")
    parser.add_argument("--out", type=Path, required=True, help="where the weights go")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="take up the run that left OUT.checkpoint")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    train, test = Labelled.read(options.data, "train"), Labelled.read(options.data, "test")
    if options.minutes > 0:
        model = VisionTransformer(VitShape())
        training = Training(model, options.minutes, options.out.with_suffix(".checkpoint"))
        if options.resume:
            training.resume()
        training.run(train)
        print(f"{training.steps} steps of {BATCH} images in {options.minutes:g} minutes")
        vit_file.save(model, options.out)
    evaluate(options.out, train, test)


if __name__ == "__main__":
    main()
