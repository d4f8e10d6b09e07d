"""What there is to measure of an encoder: each technique, what its source says of it, and how it is made here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from edgecache.encoder import candidates
from edgecache.encoder.attention import hybrid
from edgecache.encoder.bench_command import Bench
from edgecache.encoder.build import Built, build, fitted
from edgecache.encoder.depth.exits import Asked
from edgecache.encoder.depth.gates import GatedVit, agreeing_blocks, train_gates
from edgecache.encoder.distill import Distillation, Recipe, student_of
from edgecache.encoder.options import PRECISIONS, Options
from edgecache.encoder.runtimes import Runtime
from edgecache.encoder.shortcuts import Shortcuts, Slim
from edgecache.encoder.tokens.sampling import Sampled
from edgecache.encoder.towers import MAIN
from edgecache.encoder.vit import VisionTransformer
from edgecache.encoder.weights import factors, numbers, sensitivity, slimming
from edgecache.encoder.weights.slim import FITTED_TOKENS
from torch import Tensor

Change = Callable[[VisionTransformer, Tensor], VisionTransformer]
"""A model, and pixels to fit it on, to another model."""

Make = Callable[[Bench], torch.nn.Module]
"""A module that maps pixels to features, for what only torch can run."""


NEAR, SAME = Asked(0.9), Asked(0.0, 0.95)
"""What is asked of those who are seen small: features that are near, or classes."""
LEAVING = tuple(Asked(0.0, agreement) for agreement in (0.99, 0.985, 0.98))
"""What is asked of those who leave early."""
STUDENT_STEPS = 20


@dataclass(frozen=True)
class Case:
    """One line to measure."""

    technique: str
    says: str
    options: Options
    change: Change | None = None
    what: str = ""
    """What `change` or `make` does."""
    make: Make | None = None
    asked: Asked | None = None
    """Of those who leave early or are seen small, where it is not what all are asked for."""

    @property
    def name(self) -> str:
        """As it stands in the table."""
        cosine, agreement = self.asked or (0.0, 0.0)
        asked = [f"at {cosine:g}"] * bool(cosine) + [f"at {100 * agreement:g}% of the classes"] * bool(agreement)
        return ", ".join(part for part in (str(self.options), self.what, *asked) if part)


def alone(installed: Sequence[Runtime]) -> list[Case]:
    """Every runtime in every precision, leaving nothing out; plain torch first."""
    says = {
        "float32": "graph fusion by the runtime: no figure",
        "bfloat16": "half the bytes, no loss (Kalamkar et al., 2019)",
        "int8": "2.4-4.0 × (I-BERT, Kim et al., 2021; GPU)",
        "int8-static": "2.4-4.0 × (I-BERT, Kim et al., 2021; GPU)",
        "int8-static+bfloat16": "2.4-4.0 × (I-BERT, Kim et al., 2021; GPU)",
    }
    names = {"float32": "runtime", "bfloat16": "bfloat16"}
    return [
        Case(names.get(precision, "INT8"), says[precision], Options(runtime, precision))
        for runtime in installed
        for precision in PRECISIONS[runtime]
    ]


def on(best: Options, work: Bench) -> list[Case]:
    """Every technique on the strongest runtime."""
    shape = work.model.shape
    quarter = (1.0, 0.75, 0.5, 0.25)
    gentle = (1.0, 0.9, 0.8, 0.7)

    def cut(**cuts: object) -> Options:
        return replace(best, shortcuts=Shortcuts(is_bridged=True, **cuts))  # type: ignore[arg-type]

    tome = "2 × at 0.2-0.3 points (ViT-L and H; Bolya et al., 2022)"
    evit = "1.5 × at 0.3 points after training (DeiT-S; Liang et al., 2022)"
    side = "1.6-3.6 × fewer products, with a cascade (Wang et al., 2021)"
    cases = [Case("smaller input", side, cut(side=pixels)) for pixels in candidates.sides(shape)]
    for pixels in candidates.sides(shape):
        small = replace(cut(), small_side=pixels)
        cases.append(Case("adaptive input resolution", side, small, asked=NEAR))
        cases += [Case("cascade", side, replace(small, is_cascade=True), asked=asked) for asked in (NEAR, SAME)]
    cases += [Case("token merging", tome, cut(merge=count)) for count in candidates.merges(shape)]
    *_, many, _ = candidates.merges(shape)
    cases.append(Case("token merging", tome, replace(best, shortcuts=Shortcuts(merge=many))))
    cases += [Case("token pruning, by attention", evit, cut(prune=schedule)) for schedule in (gentle, quarter)]
    norm = "no figure"
    cases += [
        Case("token pruning, by norm", norm, cut(prune=schedule, prune_by="norm")) for schedule in (gentle, quarter)
    ]
    late = candidates.exits_of(shape.depth)[-1]
    exits = "1.8 × (LGViT, Xu et al., 2023, trained)"
    cases += [Case("early exit", exits, replace(cut(), exits=late), asked=asked) for asked in LEAVING]
    skip = "20 % less at no loss, trained (BlockDrop, Wu et al., 2018)"
    agreeing = agreeing_blocks(work.agreement)
    for blocks in sorted({agreeing, *(tuple(sorted(work.least_needed[:count])) for count in (1, shape.depth // 6))}):
        what = "layer skipping, agreement above 0.98" if blocks == agreeing else "layer skipping"
        cases.append(Case(what, skip, cut(skip=blocks)))
    cases += [Case("fewer layers", "no figure", cut(depth=shape.depth - 1))]
    told = {
        "window": "cost grows with tokens, not their square (Swin, Liu et al., 2021)",
        "shifted": "cost grows with tokens, not their square (Swin, Liu et al., 2021)",
        "linear": "up to 4,000 × generating long sequences (Katharopoulos et al., 2020)",
        "performer": "cost grows with tokens, not their square (Choromanski et al., 2021)",
        "linformer": "1.5-20 × at 512-65,536 tokens (Wang et al., 2020)",
        "grouped": "near full quality after 5 % more training (GQA, Ainslie et al., 2023)",
        "int8": "2.1 × over FlashAttention2 on GPUs (SageAttention, Zhang et al., 2024)",
    }
    cases += [
        Case(f"attention: {name}", told[name.partition(":")[0]], cut(attention=name))
        for name in candidates.attentions(shape)
    ]
    cases += weights(best, work)
    cases += branching(work)
    cases += together(best, work)
    return cases


def together(best: Options, work: Bench) -> list[Case]:
    """Techniques that go together, without and with what is decided image by image."""
    shape = work.model.shape
    few, some, many, _ = candidates.merges(shape)
    large, small = candidates.sides(shape)
    exits = candidates.exits_of(shape.depth)[-1]
    slim = Slim(channels=0.75)

    def cut(asked: Asked | None = None, **cuts: object) -> Case:
        merge = cuts.pop("merge", 0)
        shortcuts = Shortcuts(merge=merge, side=cuts.pop("side", 0), is_bridged=True)  # type: ignore[arg-type]
        options = replace(best, shortcuts=shortcuts, **cuts)  # type: ignore[arg-type]
        return Case("together", "no figure", options, asked=asked)

    return [
        cut(merge=some, slim=slim),
        cut(merge=many, slim=Slim(channels=0.9)),
        cut(merge=few, side=large),
        cut(merge=some, side=small),
        cut(SAME, side=small, exits=exits),
        cut(SAME, merge=few, exits=exits),
        cut(SAME, merge=few, exits=exits, small_side=small, is_cascade=True),
    ]


def weights(best: Options, work: Bench) -> list[Case]:
    """What is done to the weights."""

    def changed(technique: str, says: str, what: str, change: Change, options: Options = best) -> Case:
        return Case(technique, says, options, change, what)

    def slim(technique: str, says: str, slim: Slim) -> Case:
        return Case(technique, says, replace(best, slim=slim))

    def heads_by(importance: slimming.Importance) -> Change:
        return lambda model, pixels: slimming.slimmed(model, pixels, heads=2 / 3, importance=importance)

    plain = Options()
    channels = "5 × at 0.3 % more errors (VGG-16; He et al., 2017)"
    heads = "20-40 % of heads at no noticeable loss (Michel et al., 2019)"
    cases = [
        *(slim("pruning: channels", channels, Slim(channels=share)) for share in candidates.CHANNEL_SHARES),
        changed("pruning: channels, without recovery", channels, "50% of the channels", _unrecovered),
        slim("pruning: heads, by norm", heads, Slim(heads=2 / 3)),
        changed("pruning: heads, by gradient", heads, "2/3 of the heads", heads_by(slimming.head_gradients)),
        changed("pruning: heads, by entropy", heads, "2/3 of the heads", heads_by(slimming.head_entropies)),
    ]
    rank = "2 × at 1 point (convolutions; Denton et al., 2014)"
    cases += [slim("low-rank factors", rank, Slim(rank=share)) for share in candidates.RANK_SHARES]
    kernel = "0.6 points more (Swin-T, Pan et al., 2022, trained)"
    first = tuple(sorted(work.least_needed[: max(1, work.model.shape.depth // 4)]))
    cases.append(slim("a kernel for attention", kernel, Slim(kernels=first)))
    if work.model.shape.norms_last and not work.model.shape.norms_first:
        rms = "7-64 % less time (Zhang and Sennrich, 2019)"
        cases.append(changed("RMSNorm", rms, "same features", lambda m, _: factors.with_rms_norms(m), plain))
    awq = "3 × on GPUs over 16 bits (AWQ, Lin et al., 2023)"
    cases.append(changed("INT4 weights, in groups", awq, "groups of 32", lambda m, _: _vit(numbers.in_int4(m)), plain))
    han = "9 × fewer weights at no loss, trained (AlexNet; Han et al., 2015)"
    cases += [changed("zeros, unstructured", han, f"{share:.0%} zeros", _sparse(share)) for share in (0.3, 0.5, 0.7)]
    two = "2 × on GPUs' sparse cores, no loss after training (Mishra et al., 2021)"
    cases.append(
        changed("zeros, 2 of 4", two, "50% zeros", lambda m, _: _vit(numbers.masked(m, numbers.two_of_four_mask)))
    )
    cases.append(
        changed(
            "zeros, in blocks of 16 × 16",
            "no figure",
            "30% zeros",
            lambda m, _: _vit(numbers.masked(m, lambda w: numbers.block_mask(w, 0.3))),
        )
    )
    bert = "40 % smaller, 1.6 × as fast, 3 % worse (DistilBERT, Sanh et al., 2019)"
    taught = f"half of the blocks, taught in {STUDENT_STEPS} steps"
    cases.append(changed("distillation", bert, taught, _student(work, Recipe(batch=8))))
    pruned = Recipe(batch=8, sparsity=0.5, is_rounded=True)
    cases.append(changed("distillation, pruned and rounded", bert, f"{taught}, 50% zeros", _student(work, pruned)))
    hawq = "within 0.2 points at a mean of 3-4 bits (HAWQ, Dong et al., 2019)"
    cases.append(changed("mixed precision", hawq, "INT8 where it is borne", _mixed, plain))
    half = "half the bytes, no loss (Micikevicius et al., 2018)"
    cases.append(Case("float16", half, plain, None, "all in float16", lambda work: InFloat16(work.model)))
    return cases


def branching(work: Bench) -> list[Case]:
    """What decides image by image within the model: with torch, in float32."""

    def made(technique: str, says: str, what: str, make: Make) -> Case:
        return Case(technique, says, Options(), None, what, make)

    ats = "2 × fewer products at no loss, trained (ATS, Fayyaz et al., 2022)"
    cases = [
        made(f"adaptive sampling, by {score}", ats, f"{share:.0%} of the patches", _sampled(share, score))
        for score in ("edges", "entropy")
        for share in (0.75, 0.5)
    ]
    cases.append(
        made(
            "gated blocks",
            "20 % less at no loss (ConvNet-AIG, Veit and Belongie, 2018)",
            "trained on features, 60 steps",
            _gated,
        )
    )
    acmix = "0.6 points more (Swin-T, Pan et al., 2022, trained)"
    cases += [
        made("attention or a kernel, routed", acmix, f"error {error:g} allowed", _hybrid(error)) for error in (0.3, 0.6)
    ]
    return cases


class InFloat16(torch.nn.Module):
    """A model that computes in float16 and gives features in float32."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.model = deepcopy(model).half()

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.model(pixels.half()).float()
        return features


def _student(work: Bench, recipe: Recipe) -> Change:
    """Half of the model's blocks, taught to make its features."""

    def change(model: VisionTransformer, _: Tensor) -> VisionTransformer:
        lessons = Distillation(model, student_of(model, model.shape.depth // 2), recipe)
        generator, pixels = torch.Generator().manual_seed(0), torch.from_numpy(work.fitted.pixels)
        for step in range(STUDENT_STEPS):
            chosen = pixels[torch.randint(len(pixels), (recipe.batch,), generator=generator)]
            lessons.step(chosen, step / STUDENT_STEPS)
        return lessons.finish()

    return change


def _unrecovered(model: VisionTransformer, pixels: Tensor) -> VisionTransformer:
    return slimming.slimmed(model, pixels, channels=0.5, is_recovered=False)


def _sampled(share: float, score: str) -> Make:
    def make(work: Bench) -> torch.nn.Module:
        count = round(share * work.model.shape.grid_side**2)
        return Sampled(work.model, count, coarser=1, score=score).eval()

    return make


def _gated(work: Bench) -> torch.nn.Module:
    gated = GatedVit(work.model)
    pixels, wanted = (torch.from_numpy(array[:128]) for array in (work.fitted.pixels, work.plain_fitted))
    train_gates(gated, pixels, wanted, price=0.1, steps=60, generator=torch.Generator().manual_seed(0))
    return gated.eval()


def _hybrid(error_max: float) -> Make:
    def make(work: Bench) -> torch.nn.Module:
        pixels, wanted = (torch.from_numpy(array[:128]) for array in (work.fitted.pixels, work.plain_fitted))
        model = hybrid.hybrid(work.model, pixels, error_max=error_max)
        cosine = hybrid.settle(model, pixels, wanted, 0.99)
        layers = list(hybrid.layers_of(model))
        told = ", ".join(f"{layer.gating} {layer.activation_rate:.2f}" for layer in layers)
        work.say(
            f"routing settles at cosine {cosine:.4f}: {told}; {sum(layer.saved_flops for layer in layers):,} saved"
        )
        return model

    return make


def _sparse(share: float) -> Change:
    return lambda model, _: _vit(numbers.masked(model, lambda weight: numbers.magnitude_mask(weight, share)))


def _mixed(model: VisionTransformer, pixels: Tensor) -> VisionTransformer:
    lost = sensitivity.sensitivities(model, pixels[:32])
    return sensitivity.rounded(model, set(range(len(lost))) - set(sensitivity.kept_in_float(lost, 2e-3)))


def _vit(model: torch.nn.Module) -> VisionTransformer:
    assert isinstance(model, VisionTransformer)
    return model


Made = tuple[Options, dict[str, bytes], dict[str, torch.nn.Module]]
"""The options with the thresholds that were found, and the graphs' files, or for torch its modules."""


class Maker:
    """Makes cases. Of those that differ only in what is asked of who leaves early, the first is fitted for all."""

    def __init__(self, work: Bench, cosine_min: float) -> None:
        self._work, self._cosine_min = work, cosine_min
        self._last: tuple[Options, Built] | None = None

    def made(self, case: Case) -> Made:
        """What a case is measured by; InvalidValue where it cannot be made."""
        work = self._work
        if case.make is not None:
            return case.options, {}, {MAIN: case.make(work)}
        asked = case.asked or Asked(self._cosine_min)
        if self._last and self._last[0] == case.options and not case.options.small_side:
            built = self._last[1]
            if built.tried is not None:
                return replace(built.options, exit_sureness=built.tried.thresholds(asked)), built.files, {}
        model, images, plain = work.model, work.fitted.pixels, work.plain_fitted
        if case.change is not None:
            tokens = model.shape.extra_tokens + model.shape.grid_side**2
            model = case.change(model, torch.from_numpy(images[: max(1, FITTED_TOKENS // tokens)]))
        if case.options.runtime is Runtime.TORCH:
            options, modules, _ = fitted(model, case.options, images, torch.from_numpy(plain), asked)
            return options, {}, modules
        built = build(model, case.options, images, threads=1, asked=asked, plain=plain)
        self._last = (case.options, built)
        return built.options, built.files, {}
