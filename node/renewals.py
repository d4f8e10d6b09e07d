"""Images whose features were answered by conversion, until the encoder has time for them. Pure.

After an upgrade everything would have to be encoded anew at once. Who asks for the first time is answered by
conversion, and the image waits here for the encoder to be idle; who asks again shows that it matters, and has it
encoded at once. So the encoder works on what is used, and what is used once costs nobody a wait.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..protocol.keys import FeatureKey

IMAGES_MAX = 256
BYTES_MAX = 64 * 1024 * 1024


class Renewals:
    """Images by the keys of the features to be made. The oldest go when there are too many."""

    def __init__(self) -> None:
        self._images: OrderedDict[FeatureKey, bytes] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._images)

    def __contains__(self, key: object) -> bool:
        return key in self._images

    def add(self, key: FeatureKey, image: bytes) -> None:
        """`key` was answered by conversion; this is its image."""
        self.pop(key)
        if len(image) > BYTES_MAX:
            return
        self._images[key] = image
        self._bytes += len(image)
        while self._bytes > BYTES_MAX or len(self._images) > IMAGES_MAX:
            self.pop(next(iter(self._images)))

    def pop(self, key: FeatureKey) -> bytes | None:
        """The image of `key`, which waits no longer."""
        image = self._images.pop(key, None)
        self._bytes -= len(image) if image is not None else 0
        return image

    def take(self) -> tuple[FeatureKey, bytes] | None:
        """The key and image to encode next, the one asked for last: what is asked for goes on being asked for."""
        if not self._images:
            return None
        key, image = self._images.popitem()
        self._bytes -= len(image)
        return key, image

    def check(self) -> None:
        """Assert that the bookkeeping agrees with itself."""
        assert self._bytes == sum(map(len, self._images.values())) <= BYTES_MAX
        assert len(self._images) <= IMAGES_MAX
