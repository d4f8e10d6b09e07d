"""torch: what everything else is compared with, and what runs where nothing has been exported."""

from __future__ import annotations

import torch
from torch import nn

from . import Array


class TorchGraph:
    """A module of our own as a graph. Its threads are torch's, which are the process's."""

    def __init__(self, module: nn.Module, *, is_bfloat16: bool = False) -> None:
        self._module = module.eval()
        self._is_bfloat16 = is_bfloat16

    def run(self, *inputs: Array) -> list[Array]:
        """Every output for these inputs, in float32."""
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self._is_bfloat16):
            made = self._module(*map(torch.from_numpy, inputs))
        outputs = made if isinstance(made, tuple) else (made,)
        return [output.float().numpy() for output in outputs]
