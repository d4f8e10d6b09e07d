"""What can go wrong, sorted by whose fault it is.

*Ours* is an `assert`. *The weather's* (a dead peer, a timeout, a miss) is an ordinary value, not an exception. What is
left is the user's (`InvalidValue` and the image errors), the peer's (`RemoteProtocolError`) and the encoder's.
"""

from __future__ import annotations


class EdgeCacheError(Exception):
    """Any error that edgecache raises on purpose; its text names the value and the limit."""


class InvalidValue(EdgeCacheError, ValueError):
    """The user gave a value that cannot be used."""


class RemoteProtocolError(EdgeCacheError):
    """A peer sent what no correct peer sends: close that connection, count it, carry on."""


class CorruptPayload(RemoteProtocolError):
    """Bytes that are not a payload, not the payload of that key, or a payload that was damaged."""


class ImageError(EdgeCacheError):
    """The user's image cannot be encoded."""


class UnsupportedImage(ImageError):
    """A format that edgecache does not read."""


class UndecodableImage(ImageError):
    """Bytes that claim to be an image and cannot be decoded as one."""


class ImageTooLarge(ImageError):
    """More bytes or pixels than the limit; raised before the pixels are allocated."""


class EncoderUnavailable(EdgeCacheError):
    """The encoder cannot answer now: it failed, died, is starting, or was never there. Retry after `retry_after_s`."""

    def __init__(self, reason: str, retry_after_s: float = 1.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
