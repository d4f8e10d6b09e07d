"""Teach the ViT-S/14 of tests/bench/dinov2.py the ten classes of CIFAR-10, to measure on: a `vit:` file with a head.

    python -m tests.bench.vit_s_classes OUT --data cifar10_jpeg.npz --minutes 17 --out vit-s.safetensors

Its weights know what is salient and have forgotten most classes. All blocks but the first few are trained on, the lower
the slower (Howard and Ruder, "Universal Language Model Fine-tuning", 2018, section 3.2), on pictures of 32 × 32 scaled
up: small at first, since a step at 84 × 84 takes a seventh of one at 224 × 224, and at 224 × 224 in the end. Half of
the pictures are seen with a part of their tokens merged, and two blocks on the way have a head of their own (Lee et
al., "Deeply-Supervised Nets", 2015), so that shortcuts find a model that is used to them; those heads are not kept.

The time is given, not the number of steps, and as the processor's, so that other work on the machine costs nothing but
patience: the learning rate and the size follow that clock. The seed fixes the rest.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from edgecache.encoder import checkpoint, vit_file
from edgecache.encoder.preprocessing import Preprocessing
from edgecache.encoder.reduced import ReducedVit, Tokens
from edgecache.encoder.shortcuts import Shortcuts
from edgecache.encoder.spec import TINY_PREPROCESSING
from edgecache.encoder.train_tiny import Labelled, rate_share
from edgecache.encoder.vit import VisionTransformer
from torch import Tensor, nn

SIDE = 224
PREPARED = Preprocessing(height=SIDE, width=SIDE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SIDES = ((0.45, (70, 84, 98)), (0.6, (112, 140)), (1.0, (112, SIDE, SIDE)))
"""Until which share of the time pictures have one of which sides."""
MERGED_SHARE = 0.5
"""Of the tokens, merged away over the whole depth for one batch in two."""
CLASSES = 10
BATCH = 16
LEARNING_RATE = 1.5e-4
HEADS_RATE = 10.0  # times that: they begin with nothing
LAYER_DECAY = 0.85
FROZEN_BLOCKS = 4
FROZEN_AT_SIDE = (
    8  # at the full size: what changes with it is mostly the top (Touvron et al., "Fixing", 2019, section 4)
)
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.05
WATCHED = (5, 8)  # blocks with a head on the way
WATCHED_SHARE = 0.3
TOLD_EVERY_S = 200.0
TOLD_IMAGES = 250  # of the test part


class Lessons:
    """One run: a model with a head, the heads on the way, and what moves their weights."""

    def __init__(self, model: VisionTransformer, seed: int) -> None:
        self.model = model
        if not model.shape.classes:
            self.model.head = nn.Linear(model.shape.dim, CLASSES)
            self.model.shape = replace(model.shape, classes=CLASSES)
        self.watching = nn.ModuleList(nn.Linear(model.shape.dim, CLASSES) for _ in WATCHED)
        self._chance = random.Random(seed)
        self._optimizer = torch.optim.AdamW(self._groups(), weight_decay=WEIGHT_DECAY)

    def step(self, images: Tensor, labels: Tensor, progress: float) -> float:
        """Learn from a batch of 32 × 32; `progress`, 0 to 1, is how much of the time is over. The loss."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * rate_share(progress)
        side = self._chance.choice(next(sides for until, sides in SIDES if progress <= until))
        share = self._chance.choice((0.0, MERGED_SHARE))
        logits, watched = self._logits(scaled(images, side), share)
        loss = F.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING)
        on_the_way = [F.cross_entropy(made, labels, label_smoothing=LABEL_SMOOTHING) for made in watched]
        torch.autograd.backward(loss + WATCHED_SHARE * torch.stack(on_the_way).sum())
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(loss.detach())

    def _logits(self, pixels: Tensor, merged: float) -> tuple[Tensor, list[Tensor]]:
        """Of the head, and of those on the way, each (batch, classes)."""
        model = self.model
        grid = (pixels.shape[-1] // model.shape.patch_side) ** 2
        reduced = ReducedVit(model, Shortcuts(merge=round(merged * grid / model.shape.depth)))
        frozen = FROZEN_AT_SIDE if pixels.shape[-1] == SIDE else FROZEN_BLOCKS
        watched: list[Tensor] = []
        with torch.no_grad():
            kept = Tokens.all_of(model.embed(pixels))
        for index in range(model.shape.depth):
            with torch.set_grad_enabled(index >= frozen):
                reduced.block(kept, index)
            if index in WATCHED:
                watched.append(self.watching[len(watched)](model.norm(kept.on_the_grid()).mean(dim=1)))
        return model.classify(model.norm(kept.on_the_grid())), watched

    def _groups(self) -> list[dict[str, object]]:
        groups: list[dict[str, object]] = []
        depth = self.model.shape.depth
        for index, block in enumerate(self.model.blocks):
            if index >= FROZEN_BLOCKS:
                peak = LEARNING_RATE * LAYER_DECAY ** (depth - 1 - index)
                groups.append({"params": list(block.parameters()), "peak": peak})
        groups.append({"params": list(self.model.norm.parameters()), "peak": LEARNING_RATE})
        heads = [*self.model.head.parameters(), *self.watching.parameters()]
        return [*groups, {"params": heads, "peak": HEADS_RATE * LEARNING_RATE}]


def scaled(images: Tensor, side: int) -> Tensor:
    """Pictures as `edgecache/tiny` is given them, (batch, 3, 32, 32), as this model wants them, (batch, 3, side, side).

    Pillow's bicubic filter, as the node has it, and PyTorch's differ by what is beyond black and white.
    """
    before, after = (
        [torch.tensor(values)[:, None, None] for values in (how.mean, how.std)]
        for how in (TINY_PREPROCESSING, PREPARED)
    )
    light = (images * before[1] + before[0]).clamp(0, 1)
    larger = F.interpolate(light, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    return (larger - after[0]) / after[1]


@torch.inference_mode()
def right_share(model: VisionTransformer, test: Labelled, side: int, count: int) -> float:
    """Top-1 on some of the test images at a size."""
    chosen = torch.arange(count) * len(test.labels) // count
    batches = zip(*(torch.split(part[chosen], BATCH) for part in (test.pixels, test.labels)), strict=True)
    right = [model.classify(model(scaled(pixels.float(), side))).argmax(dim=1) == labels for pixels, labels in batches]
    return float(torch.cat(right).double().mean())


def small_batches(train: Labelled, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image over and over, moved and mirrored by chance."""
    while True:
        for pixels, labels in train.shuffled(generator):
            yield from zip(torch.split(pixels, BATCH), torch.split(labels, BATCH), strict=True)


def main() -> None:
    """Read the command line, train, save."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.vit_s_classes", description=__doc__)
    parser.add_argument("directory", type=Path, help="what tests/bench/dinov2.py wrote")
    parser.add_argument("--data", type=Path, required=True, help="npz of JPEG files and labels")
    parser.add_argument("--minutes", type=float, default=17.0, help="of one core's time")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", type=Path, help="an earlier run's --out to go on from")
    parser.add_argument("--progress", type=float, default=0.0, help="at this share of the time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    train, test = (Labelled.read(options.data, part) for part in ("train", "test"))
    before = vit_file.model_of(options.resume.read_bytes()) if options.resume else checkpoint.load(options.directory)
    lessons = Lessons(before, options.seed)
    model = lessons.model
    generator = torch.Generator().manual_seed(options.seed)
    spent = 60 * options.minutes * options.progress
    told = spent
    for steps, (pixels, labels) in enumerate(small_batches(train, generator)):
        progress = spent / (60 * options.minutes)
        if spent - told > TOLD_EVERY_S or progress >= 1:
            told = spent
            save(model, options.out)
            for side in (SIDE // 2, SIDE) if progress >= 1 else (SIDE // 2,):
                right = right_share(model, test, side, TOLD_IMAGES)
                print(f"{progress:4.0%} {steps} steps, top-1 of {TOLD_IMAGES} at {side}²: {right:.1%}", flush=True)
        if progress >= 1:
            return
        started = time.process_time()
        loss = lessons.step(pixels, labels, progress)
        spent += time.process_time() - started
        if steps % 20 == 0:
            print(f"{progress:4.0%} step {steps} loss {loss:.3f}", flush=True)


def save(model: VisionTransformer, path: Path) -> None:
    """The model as `vit:` reads it, for 224 × 224."""
    kept = VisionTransformer(model.shape)
    kept.load_state_dict(model.state_dict())
    kept.set_side(SIDE)
    vit_file.save(kept, path, PREPARED)


if __name__ == "__main__":
    main()
