"""One configuration of an encoder: what is left out, in which numbers, on which runtime."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum

import msgspec

from ..protocol.errors import InvalidValue
from .runtimes import Runtime
from .shortcuts import Shortcuts, Slim


class Precision(StrEnum):
    """The numbers that weights and products are in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    """Products with weights in INT8, the activations' ranges found while it runs."""
    INT8_STATIC = "int8-static"
    """The same, and convolutions, with ranges measured beforehand on images."""
    INT8_BFLOAT16 = "int8-static+bfloat16"
    """The same, and bfloat16 for the rest."""

    @property
    def is_bfloat16(self) -> bool:
        """Whether what is not INT8 is computed in bfloat16."""
        return self in (Precision.BFLOAT16, Precision.INT8_BFLOAT16)


# What each runtime has kernels for on a CPU.
PRECISIONS = {
    Runtime.TORCH: (Precision.FLOAT32, Precision.BFLOAT16),
    Runtime.ONNX: (Precision.FLOAT32, Precision.INT8, Precision.INT8_STATIC),
    Runtime.OPENVINO: (Precision.FLOAT32, Precision.BFLOAT16, Precision.INT8_STATIC, Precision.INT8_BFLOAT16),
}


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that decides what an optimised encoder makes, next to the weights that it came from."""

    runtime: Runtime = Runtime.TORCH
    precision: Precision = Precision.FLOAT32
    shortcuts: Shortcuts = field(default_factory=Shortcuts)
    exits: tuple[int, ...] = ()
    """Numbers of blocks after which an image may leave."""
    exit_sureness: tuple[float, ...] = ()
    """How sure it must be, for each exit; found on images when the encoder is made."""
    small_side: int = 0
    """Pixels along one side that the model sees of images with little detail; 0: it sees all of them whole."""
    small_bits: float = 0.0
    """Up to how many bits of detail that is; found on images when the encoder is made."""
    slim: Slim = field(default_factory=Slim)
    is_cascade: bool = False
    """Whether everybody is seen at `small_side` first, and who is not sure then whole (Wang et al., "Not All Images are
    Worth 16x16 Words", 2021, section 3); else detail decides beforehand."""
    small_sureness: float = 0.0
    """How sure that is; found on images when the encoder is made."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS[self.runtime]:
            has = ", ".join(PRECISIONS[self.runtime])
            raise InvalidValue(f"{self.runtime} in {self.precision}: on a CPU it has {has}")
        if list(self.exits) != sorted(set(self.exits)):
            raise InvalidValue(f"exits {self.exits}: expected numbers of blocks, ascending")
        if self.exits and self.shortcuts.prune:
            raise InvalidValue(f"exits {self.exits} and prune {self.shortcuts.prune}: one of them")
        if self.is_cascade and (not self.small_side or self.shortcuts.prune):
            raise InvalidValue("a cascade wants a small_side, and no pruning")
        if self.small_side and self.slim.kernels:
            raise InvalidValue(f"small_side {self.small_side} and kernels {self.slim.kernels}: one of them")

    @property
    def is_fitted(self) -> bool:
        """Whether making it takes images."""
        return self.shortcuts.is_bridged or self.slim != Slim() or bool(self.exits or self.small_side)

    @property
    def is_whole(self) -> bool:
        """Whether it leaves nothing out: a runtime alone."""
        return self.shortcuts == Shortcuts() and self.slim == Slim() and not self.exits and not self.small_side

    def canonical(self) -> bytes:
        """The same bytes for the same options, whatever wrote them: part of an encoder's fingerprint."""
        said = asdict(self)
        # As it was before there were these: profiles keep their identity.
        if self.slim == Slim():
            del said["slim"]
        if not self.is_cascade:
            del said["is_cascade"], said["small_sureness"]
        return msgspec.json.encode(said, order="sorted")

    def __str__(self) -> str:
        cuts = self.shortcuts
        parts = [f"{self.runtime} {self.precision}"]
        parts += [f"side {cuts.side}"] * bool(cuts.side)
        parts += [f"merge {cuts.merge}"] * bool(cuts.merge)
        parts += [f"prune {'/'.join(f'{share:g}' for share in cuts.prune)} by {cuts.prune_by}"] * bool(cuts.prune)
        parts += [f"skip {','.join(map(str, cuts.skip))}"] * bool(cuts.skip)
        parts += [f"depth {cuts.depth}"] * bool(cuts.depth)
        parts += [cuts.attention] * bool(cuts.attention)
        parts += [
            f"{share:.0%} of the {what}"
            for share, what in (
                (self.slim.heads, "heads"),
                (self.slim.channels, "channels"),
                (self.slim.rank, "perceptrons' products"),
            )
            if share != 1
        ]
        parts += [f"kernels {','.join(map(str, self.slim.kernels))}"] * bool(self.slim.kernels)
        parts += [f"exits {','.join(map(str, self.exits))}"] * bool(self.exits)
        parts += [f"{'cascade' if self.is_cascade else 'small'} {self.small_side}"] * bool(self.small_side)
        parts += ["bridged"] * cuts.is_bridged
        return ", ".join(parts)
