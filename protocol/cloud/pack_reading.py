"""The index of a pack in an object store, by two small reads at most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import CorruptPayload
from .download import download
from .objects import ObjectStoreError
from .pack import ENTRIES_MAX, ENTRY_BYTES, FOOTER_BYTES, PACK_BYTES_MAX, Footer, PackIndex

if TYPE_CHECKING:
    from .objects import Objects

_TAIL_BYTES = 16 * 1024  # the footer, and the index of a usual pack with it: 340 entries


async def read_index(objects: Objects, name: str, size: int, encoder: bytes) -> PackIndex | None:
    """The index of the pack `name` of `size` bytes; None when it is gone. CorruptPayload, ObjectStoreError."""
    if not FOOTER_BYTES <= size <= PACK_BYTES_MAX + ENTRIES_MAX * ENTRY_BYTES:
        raise CorruptPayload(f"pack of {size} bytes")
    tail_at = max(0, size - _TAIL_BYTES)
    tail = await download(objects, name, tail_at, size, bytes_max=_TAIL_BYTES)
    if tail is None:
        return None
    if len(tail) < size - tail_at:
        raise ObjectStoreError(f"{name}: it is being written")
    view = memoryview(tail)
    footer = Footer.parse(view[-FOOTER_BYTES:], size, encoder)
    if footer.index_at >= tail_at:
        at = footer.index_at - tail_at
        return PackIndex(footer, bytes(view[at : at + footer.index_bytes]))
    end = footer.index_at + footer.index_bytes
    index = await download(objects, name, footer.index_at, end, bytes_max=ENTRIES_MAX * ENTRY_BYTES)
    return PackIndex(footer, index) if index is not None else None
