"""Gated blocks: for each picture, a gate before every block says whether it is worth running.

A gate is one product with the mean token. Trained, it opens or shuts for real, and its gradient is that of the
probability behind it (the straight-through estimator; Bengio et al., "Estimating or Propagating Gradients", 2013), with
a price on every open gate, as in Veit and Belongie, "Convolutional Networks with Adaptive Inference Graphs" (2018),
section 3. The model's weights stay as they are: only the gates learn, and what they are to keep is the plain model's
features, so that it takes no labels. A shut block costs nothing but the gate.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..vit import VisionTransformer

OPEN = 0.5
_START_LOGIT = 2.0  # gates begin open: what is trained is which to shut
_RATE = 0.05
_BATCH = 16


class GatedVit(nn.Module):
    """A model with a gate before every block but the first. With new gates it computes what the model does."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.model = model
        self.gates = nn.ModuleList(nn.Linear(model.shape.dim, 1) for _ in range(model.shape.depth - 1))
        for gate in self.gates:
            assert isinstance(gate, nn.Linear)
            nn.init.zeros_(gate.weight)
            nn.init.constant_(gate.bias, _START_LOGIT)
        self.ran = [0] * model.shape.depth
        """How many pictures each block ran for, outside of training."""
        self.images = 0

    def forward(self, pixels: Tensor) -> Tensor:
        if self.training:
            return self.gated(pixels)[0]
        tokens = self.model.embed(pixels)
        self.images += len(pixels)
        for index, block in enumerate(self.model.blocks):
            is_open = (
                torch.ones(len(tokens), dtype=torch.bool) if index == 0 else self.probability(index, tokens) > OPEN
            )
            self.ran[index] += int(is_open.sum())
            if bool(is_open.all()):
                tokens = block(tokens)
            elif bool(is_open.any()):
                tokens = tokens.clone()
                tokens[is_open] = block(tokens[is_open])
        normed: Tensor = self.model.norm(tokens)
        return normed

    def gated(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features, and the mean share of open gates: both with gradients for the gates."""
        tokens, opened = self.model.embed(pixels), []
        for index, block in enumerate(self.model.blocks):
            if index == 0:
                tokens = block(tokens)
                continue
            likely = self.probability(index, tokens)
            gate = (likely > OPEN).float() + likely - likely.detach()
            opened.append(gate.mean())
            tokens = tokens + gate[:, None, None] * (block(tokens) - tokens)
        return self.model.norm(tokens), torch.stack(opened).mean()

    def probability(self, index: int, tokens: Tensor) -> Tensor:
        """How likely block `index` is worth running for each picture, (batch,)."""
        logits: Tensor = self.gates[index - 1](F.normalize(tokens.mean(dim=1), dim=-1))
        return logits.sigmoid()[:, 0]

    @property
    def activation_rate(self) -> float:
        """The share of blocks that ran, over all pictures so far."""
        return sum(self.ran) / (self.images * len(self.ran)) if self.images else 1.0

    def static_skips(self, rare: float = 0.05) -> tuple[int, ...]:
        """Blocks that at most this share of pictures ran: `skip` of Shortcuts, for runtimes that cannot branch."""
        return tuple(index for index, ran in enumerate(self.ran) if self.images and ran <= rare * self.images)


def train_gates(
    gated: GatedVit, pixels: Tensor, wanted: Tensor, *, price: float, steps: int, generator: torch.Generator
) -> list[float]:
    """Teach the gates to keep the `wanted` features of `pixels` with few blocks; the loss of every step.

    All gates open cost `price`, in the unit of 1 - cosine.
    """
    gated.train()
    gated.model.eval()
    optimizer = torch.optim.Adam(gated.gates.parameters(), lr=_RATE)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(pixels), (min(_BATCH, len(pixels)),), generator=generator)
        made, opened = gated.gated(pixels[chosen])
        loss = (1 - F.cosine_similarity(made.flatten(1), wanted[chosen].flatten(1))).mean() + price * opened
        optimizer.zero_grad()
        torch.autograd.backward(loss, inputs=list(gated.gates.parameters()))
        optimizer.step()
        losses.append(float(loss.detach()))
    gated.eval()
    return losses


def agreeing_blocks(agreement: Sequence[float], threshold: float = 0.98) -> tuple[int, ...]:
    """Blocks whose tokens hardly differ from those that came in, by `layer_agreement`: `skip` of Shortcuts.

    The first block is always run.
    """
    return tuple(block for block, cosine in enumerate(agreement) if block and cosine > threshold)
