"""Distillation: a smaller student learns to make a teacher's features from pictures without labels.

Three things are asked of it, each weighed: the teacher's tokens (1 - cosine), where a head is there the teacher's
logits, softened by a temperature (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2), and
what the last block looks at (Wang et al., "MiniLM", 2020, section 3.1). A student as wide as its teacher starts from
blocks of it, evenly chosen (Sanh et al., "DistilBERT", 2019, section 3), so that minutes are enough to see a gain.

On the way it may be pruned and made ready for INT8, both bit by bit: the smallest weights go on the cubic schedule of
Zhu and Gupta ("To Prune, or Not to Prune", 2017, section 3), and are recovered from as they go; in the last third
weights and activations are rounded as INT8 will, with the gradient of what they were before (Jacob et al.,
"Quantization and Training of Neural Networks", 2018, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..protocol.errors import InvalidValue
from .train_tiny import rate_share
from .vit import Block, VisionTransformer, VitShape
from .weights.numbers import magnitude_mask

PRUNED_FROM, PRUNED_UNTIL = 0.1, 0.6
ROUNDED_FROM = 2 / 3


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a student is taught."""

    features: float = 1.0
    logits: float = 0.5
    attention: float = 0.5
    temperature: float = 2.0
    sparsity: float = 0.0
    """The share of the linear layers' weights that is zero in the end."""
    is_rounded: bool = False
    """Whether it learns to live with INT8."""
    learning_rate: float = 5e-4
    batch: int = 32

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise InvalidValue(f"temperature {self.temperature:g}: expected above 0")
        if not 0 <= self.sparsity < 1:
            raise InvalidValue(f"sparsity {self.sparsity:g}: expected 0 to below 1")
        if min(self.features, self.logits, self.attention) < 0 or not self.features + self.logits + self.attention:
            raise InvalidValue("weights of features, logits and attention: expected 0 or more, and not all 0")
        if self.batch < 1 or self.learning_rate <= 0:
            raise InvalidValue(f"batch {self.batch}, learning rate {self.learning_rate:g}: expected above 0")


@dataclass(frozen=True, slots=True)
class Told:
    """What a model makes of pictures: what a student is to copy."""

    tokens: Tensor
    """(batch, tokens, dim)"""
    logits: Tensor | None
    """(batch, classes); None without a head"""
    attention: Tensor
    """Log-shares of the last block, mean over heads, (batch, tokens, tokens)"""


def student_of(teacher: VisionTransformer, depth: int, dim: int = 0, heads: int = 0) -> VisionTransformer:
    """A student of `depth` blocks, with the teacher's weights wherever it has the same shape, else with new ones."""
    shape = teacher.shape
    if not 1 <= depth <= shape.depth:
        raise InvalidValue(f"a student of {depth} blocks: expected 1 to {shape.depth}, as many as its teacher has")
    dim, heads = dim or shape.dim, heads or (shape.heads if not dim else max(1, dim * shape.heads // shape.dim))
    if dim % heads:
        raise InvalidValue(f"a student of dim {dim} with {heads} heads: they do not fit")
    stem = (*shape.stem[:-1], dim) if shape.stem else ()
    student = VisionTransformer(
        replace(shape, depth=depth, dim=dim, heads=heads, stem=stem, mlp_dim=_width(shape, dim))
    )
    if (dim, heads) == (shape.dim, shape.heads):
        chosen = [round((index + 0.5) * shape.depth / depth - 0.5) for index in range(depth)]
        weights = {name: weight for name, weight in teacher.state_dict().items() if not name.startswith("blocks.")}
        student.load_state_dict(weights, strict=False)
        for block, index in zip(student.blocks, chosen, strict=True):
            block.load_state_dict(teacher.blocks[index].state_dict())
    return student.eval()


def _width(shape: VitShape, dim: int) -> int:
    return shape.mlp_dim * dim // shape.dim if shape.mlp_dim else 0


def told_by(model: VisionTransformer, pixels: Tensor) -> Told:
    """What `model` makes of `pixels` (batch, 3, side, side)."""
    tokens = model.embed(pixels)
    *before, last = model.blocks
    for block in before:
        tokens = block(tokens)
    assert isinstance(last, Block)
    seen = last.mix(tokens)
    scores = seen.query @ seen.key.transpose(-1, -2) * seen.key.shape[-1] ** -0.5  # (batch, heads, tokens, tokens)
    made = model.norm(last.refine(seen.tokens))
    logits = model.classify(made) if isinstance(model.head, nn.Linear) else None
    return Told(made, logits, scores.softmax(dim=-1).mean(dim=1).clamp(min=1e-9).log())


class Distillation:
    """One student's lessons. `step` as often as there is time, `finish` once."""

    def __init__(self, teacher: VisionTransformer, student: VisionTransformer, recipe: Recipe) -> None:
        self.teacher, self.student, self.recipe = teacher.eval(), student, recipe
        dim, wide = student.shape.dim, teacher.shape.dim
        self._reading: nn.Module = nn.Linear(dim, wide) if dim != wide else nn.Identity()
        """From the student's tokens to the teacher's, where they differ in width; not kept."""
        self._masks: dict[str, Tensor] = {}
        self._optimizer = torch.optim.AdamW(
            [*student.parameters(), *self._reading.parameters()], recipe.learning_rate, weight_decay=0.01
        )

    def step(self, pixels: Tensor, progress: float) -> dict[str, float]:
        """Learn from a batch; `progress`, 0 to 1, is how much of the time is over. The losses, by their names."""
        recipe = self.recipe
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate_share(progress)
        if recipe.is_rounded and progress >= ROUNDED_FROM:
            round_linears(self.student)
        self.student.train()
        with torch.no_grad():
            wanted = told_by(self.teacher, pixels)
        losses = self.losses(told_by(self.student, pixels), wanted)
        self._optimizer.zero_grad()
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self._optimizer.step()
        self._prune(progress)
        self.student.eval()
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def losses(self, made: Told, wanted: Told) -> dict[str, Tensor]:
        """What is asked of the student, weighed."""
        recipe = self.recipe
        asked: dict[str, Tensor] = {}
        if recipe.features:
            cosine = F.cosine_similarity(self._reading(made.tokens), wanted.tokens, dim=-1).mean()
            asked["features"] = recipe.features * (1 - cosine)
        if recipe.logits and made.logits is not None and wanted.logits is not None:
            asked["logits"] = recipe.logits * softened(made.logits, wanted.logits, recipe.temperature)
        if recipe.attention:
            looked = F.kl_div(made.attention, wanted.attention, log_target=True, reduction="none").sum(dim=-1).mean()
            asked["attention"] = recipe.attention * looked
        if not asked:
            raise InvalidValue("logits alone are asked of a teacher without a head")
        return asked

    def finish(self) -> VisionTransformer:
        """The student as it is kept: rounding is left to the runtime, zeros stay zero."""
        for layer in _linears(self.student):
            if parametrize.is_parametrized(layer, "weight"):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        return self.student.eval()

    def _prune(self, progress: float) -> None:
        share = sparsity_at(progress, self.recipe.sparsity)
        if not share:
            return
        with torch.no_grad():
            for layer in _linears(self.student):
                weight = _weight_of(layer)
                weight *= magnitude_mask(weight, share)


def softened(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """How far the student's shares are from the teacher's at this temperature; its square keeps the gradient's size."""
    target = (wanted / temperature).log_softmax(dim=-1)
    made = (logits / temperature).log_softmax(dim=-1)
    return F.kl_div(made, target, log_target=True, reduction="batchmean") * temperature**2


def sparsity_at(progress: float, final: float) -> float:
    """The share of zeros at this point of the time: fast at first, when there is much to spare, and slower later."""
    if progress < PRUNED_FROM or not final:
        return 0.0
    left = max(0.0, 1 - (progress - PRUNED_FROM) / (PRUNED_UNTIL - PRUNED_FROM))
    return final * (1 - left**3)


class Rounded(nn.Module):
    """Weights to INT8 per channel and back; the gradient passes as if nothing had been rounded."""

    def forward(self, weight: Tensor) -> Tensor:
        scale = weight.detach().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        rounded = (weight / scale).round() * scale
        return weight + (rounded - weight).detach()


def round_linears(model: nn.Module) -> None:
    """From now on its linear layers compute as INT8 will: rounded weights, and inputs rounded per tensor."""
    for layer in _linears(model):
        if not parametrize.is_parametrized(layer, "weight"):
            parametrize.register_parametrization(layer, "weight", Rounded())
            layer.register_forward_pre_hook(_round_inputs)


def _round_inputs(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if not parametrize.is_parametrized(layer, "weight"):
        return inputs
    scale = inputs[0].detach().abs().amax().clamp(min=1e-12) / 127
    return (inputs[0] + ((inputs[0] / scale).round() * scale - inputs[0]).detach(),)


def _linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def _weight_of(layer: nn.Linear) -> Tensor:
    if parametrize.is_parametrized(layer, "weight"):
        original: Tensor = layer.parametrizations.weight.original  # type: ignore[union-attr,assignment]
        return original
    return layer.weight
