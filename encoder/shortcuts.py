"""What a reduced model leaves out, in a form that can be written down and needs no torch to be read."""

from __future__ import annotations

from dataclasses import dataclass

from ..protocol.errors import InvalidValue


@dataclass(frozen=True, slots=True)
class Shortcuts:
    """What is left out. Everything at its default is the plain model."""

    side: int = 0
    """Pixels along one side that the model sees; 0: all. A multiple of the patch's side."""
    merge: int = 0
    """Tokens merged away in each block (r in the paper)."""
    prune: tuple[float, ...] = ()
    """Shares of the tokens that go on, stepwise over the depth: (1, 0.75, 0.5, 0.25)."""
    prune_by: str = "attention"
    """Which tokens are important: `attention` or `norm`."""
    skip: tuple[int, ...] = ()
    """Blocks that are left out, counted from 0."""
    depth: int = 0
    """Blocks after which it ends; 0: all."""
    attention: str = ""
    """Another way for tokens to look at each other, such as `window:4`; empty: the exact one."""
    is_bridged: bool = False
    """Fitted to the plain model's features at the end."""

    def check(self, image_side: int, patch_side: int, depth: int) -> None:
        """Raise InvalidValue for what such a model cannot leave out."""
        if self.side and not (patch_side <= self.side <= image_side and not self.side % patch_side):
            raise InvalidValue(f"side {self.side}: expected a multiple of {patch_side}, at most {image_side}")
        if not 0 <= self.depth <= depth:
            raise InvalidValue(f"depth {self.depth}: the model has {depth} blocks")
        if any(not 0 <= block < depth for block in self.skip):
            raise InvalidValue(f"skip {self.skip}: blocks are 0 to {depth - 1}")
        if self.merge < 0 or self.merge > (image_side // patch_side) ** 2 // 2:
            raise InvalidValue(
                f"merge {self.merge}: expected 0 to {(image_side // patch_side) ** 2 // 2}, half of the tokens"
            )
        if any(not 0 < share <= 1 for share in self.prune) or list(self.prune) != sorted(self.prune, reverse=True):
            raise InvalidValue(f"prune {self.prune}: expected shares from 1 down to above 0")
        if self.merge and self.prune:
            raise InvalidValue(f"merge {self.merge} and prune {self.prune}: one of them")
        if self.attention and (self.merge or self.prune or self.side):
            raise InvalidValue(f"attention {self.attention!a} with fewer tokens: one of them")
        if self.prune_by not in ("attention", "norm"):
            raise InvalidValue(f"prune by {self.prune_by!a}: expected attention or norm")


@dataclass(frozen=True, slots=True)
class Slim:
    """What is left of the weights (encoder/weights/slim.py makes it). Everything at its default is the plain model."""

    heads: float = 1.0
    """The share of each block's heads."""
    channels: float = 1.0
    """The share of each perceptron's inner channels."""
    rank: float = 1.0
    """The share of each perceptron's products, as low-rank factors; 1: no factors."""
    kernels: tuple[int, ...] = ()
    """Blocks in which tokens see their neighbours and the mean through a kernel, instead of each other."""

    def check(self, shortcuts: Shortcuts, depth: int) -> None:
        """Raise InvalidValue for what a model of `depth` blocks cannot become together with `shortcuts`."""
        for name, share in (("heads", self.heads), ("channels", self.channels), ("rank", self.rank)):
            if not 0 < share <= 1:
                raise InvalidValue(f"{name} {share:g}: expected a share above 0, at most 1")
        if any(not 0 <= block < depth for block in self.kernels):
            raise InvalidValue(f"kernels {self.kernels}: blocks are 0 to {depth - 1}")
        if self.kernels and (shortcuts.merge or shortcuts.prune or shortcuts.side or shortcuts.attention):
            raise InvalidValue(f"kernels {self.kernels} with fewer tokens or another way to look: one of them")
        if self.kernels and self.heads < 1:
            raise InvalidValue(f"kernels {self.kernels} and heads {self.heads:g}: one of them")
