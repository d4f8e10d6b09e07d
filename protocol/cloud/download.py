"""Reading an object over a line that breaks: what has come stays, and the rest is asked for."""

from __future__ import annotations

import asyncio

from .objects import Buffer, ObjectChanged, Objects, ObjectStoreError

# So long without a byte, and a connection is taken for broken: Wi-Fi and LTE handovers take one or two seconds.
STALL_S = 10.0
# Attempts that bring nothing at all, one after another; one that brings something starts the count anew.
ATTEMPTS_MAX = 3
PAUSE_S = 0.25


async def download(
    objects: Objects, name: str, start: int = 0, end: int | None = None, *, bytes_max: int
) -> Buffer | None:
    """The bytes of an object from `start` to `end`; None when there is none.

    Goes on where a connection broke, as long as the object is the same, and else begins anew. ObjectStoreError when
    nothing comes any more, or more than `bytes_max`.
    """
    received, etag, attempts, wanted = bytearray(), None, 0, None
    while wanted is None or len(received) < wanted:
        before = len(received)
        try:
            async with asyncio.timeout(STALL_S):
                part = await objects.open(name, start + before, end, etag)
            if part is None:
                return None
            etag = part.etag
            wanted = (part.size if end is None else min(end, part.size)) - start
            if wanted > bytes_max:
                raise ObjectStoreError(f"{wanted} bytes, at most {bytes_max}")
            chunks = aiter(part.chunks)
            while True:
                async with asyncio.timeout(STALL_S):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    break
                received += chunk
            if len(received) < wanted:
                raise ObjectStoreError(f"{len(received)} bytes came of {wanted}")
        except ObjectChanged as error:
            received, etag, wanted = bytearray(), None, None
            attempts += 1
            failure: Exception = error
        except (ObjectStoreError, TimeoutError) as error:
            attempts = attempts + 1 if len(received) == before else 1
            failure = error
        else:
            break
        if attempts >= ATTEMPTS_MAX or (wanted is not None and wanted > bytes_max):
            raise ObjectStoreError(f"{name}: {str(failure) or f'nothing came for {STALL_S:g} s'}") from failure
        await asyncio.sleep(PAUSE_S * 2 ** (attempts - 1))
    return received
