"""Image files to features with a torch model: the bundled encoder's way, and Hugging Face's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..protocol.errors import InvalidValue
from .image_encoder import ImageEncoder
from .preprocessing import Preprocessing
from .spec import Description


class TorchEncoder(ImageEncoder):
    """An encoder on the CPU whose `model` maps (1, 3, height, width) to (1, tokens, dim)."""

    def __init__(self, description: Description, preprocessing: Preprocessing, model: Callable[[Tensor], Tensor]):
        super().__init__(description, preprocessing, self._run)
        self.model = model

    def _run(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            features: NDArray[np.float32] = self.model(torch.from_numpy(pixels)).float().numpy()
        return features


def refuse_broken_weights(model: nn.Module) -> None:
    """Raise InvalidValue if a weight is NaN or infinite: such a model answers every image with nonsense."""
    for weight_name, weight in model.state_dict().items():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            broken = int((~torch.isfinite(weight)).sum())
            raise InvalidValue(f"{broken} of {weight.numel()} weights in {weight_name} are not finite")
