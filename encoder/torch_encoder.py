"""Images to features with a torch model: the part that is the same for the bundled encoder and for Hugging Face's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..protocol.errors import ImageError, InvalidValue
from .images import decoded
from .preprocessing import Preprocessing, prepared
from .spec import Description


class TorchEncoder:
    """Decodes, prepares and encodes images on the CPU. `tower` maps (1, 3, height, width) to (1, tokens, dim)."""

    def __init__(self, description: Description, preprocessing: Preprocessing, tower: Callable[[Tensor], Tensor]):
        self.identity = description.identity
        self.shape = description.shape
        self._preprocessing = preprocessing
        self._tower = tower

    def encode_batch(self, images: Sequence[bytes]) -> list[NDArray[np.float32] | ImageError]:
        """For each image file its features, float32 (tokens, dim), or what is wrong with that image."""
        # One by one, since features rest under the image's digest and must not depend on what came with it: in a batch
        # of 2, 3 or 8 the tiny model's tokens differ from those of the image alone by up to 5e-6, as other kernels
        # then add in another order. That costs 56 ms for 8 images instead of 35 (forward passes, one thread).
        return [self._encoded(image) for image in images]

    def _encoded(self, image: bytes) -> NDArray[np.float32] | ImageError:
        try:
            pixels = prepared(decoded(image, self._preprocessing.side_min), self._preprocessing)
        except ImageError as error:
            return error
        with torch.inference_mode():
            features: NDArray[np.float32] = self._tower(torch.from_numpy(pixels)[None])[0].float().numpy()
        return features


def refuse_broken_weights(model: nn.Module) -> None:
    """Raise InvalidValue if a weight is NaN or infinite: such a model answers every image with nonsense."""
    for weight_name, weight in model.state_dict().items():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            broken = int((~torch.isfinite(weight)).sum())
            raise InvalidValue(f"{broken} of {weight.numel()} weights in {weight_name} are not finite")
