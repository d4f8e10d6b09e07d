"""What features take on the wire: bytes beside float32, and the time of a get on links of four speeds, coded and not.

    python -m tests.bench.wire [--encoder SPEC] [--images DIRECTORY] [--video FILE ...]

Features are real: those of photographs, and of frames of videos if there are any (which needs PyAV: pip install av).
The links are a loopback in a network namespace of its own, with packets of 1,500 bytes at the rate that `tc` lets
through (needs root), and both ends in one process, so that packing and unpacking are not hidden behind each other.
Differences to an earlier frame's features are those that nodes send (`protocol/delta.py`), by their bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles

import lz4.block
import numpy as np
import zstandard
from edgecache.encoder.spec import TINY
from edgecache.encoder.worker import EncoderWorker
from edgecache.node.link import Link, Server, dial
from edgecache.node.peer_protocol import PeerProtocol
from edgecache.node.tcp import TcpNetwork
from edgecache.protocol import delta, messages, payload
from edgecache.protocol.coding import LEVEL
from edgecache.protocol.connection import Asked, Event
from edgecache.protocol.keys import FeatureKey, digest_of
from edgecache.protocol.payload import Codec, Payload
from edgecache.protocol.quantization import quantize
from numpy.typing import NDArray

from .features import ENCODER
from .images import BUNDLED, Pixels, photographs, png
from .report import Table, seconds

CLONE_NEWNET = 0x40000000  # linux/sched.h
MBITS = (10, 100, 300, 1000)
GETS, WARM = 100, 20
# Frames of a video that are encoded: bursts, and in them a frame so many after its first.
BURSTS, APART = 4, (1, 5, 30)

Features = NDArray[np.float32]  # (tokens, dim)


async def measure(spec: str, images: Path, videos: Sequence[Path]) -> list[Table]:
    """Both tables of one encoder."""
    encoder = EncoderWorker(spec)
    try:
        made = [await encoder.encode(png(pixels)) for pixels in photographs(images)[::3]]
        sets = {f"{len(made)} photographs": (made, dict[int, list[tuple[Features, Features]]]())}
        for video in videos:
            frames = {at: await encoder.encode(png(pixels)) for at, pixels in _frames(video).items()}
            pairs = {
                apart: [(frames[at], frames[at + apart]) for at in sorted(frames) if at + apart in frames]
                for apart in APART
            }
            sets[video.stem] = (list(frames.values()), pairs)
    finally:
        await encoder.close()
    shape = " × ".join(map(str, made[0].shape))
    title = f"{spec if '/' not in spec[3:] else Path(spec).name}, {shape}"
    return [_sizes(title, sets), await _times(title, made)]


# -- bytes --------------------------------------------------------------------------------------------------------


def _sizes(
    title: str, sets: Mapping[str, tuple[list[Features], Mapping[int, list[tuple[Features, Features]]]]]
) -> Table:
    rows = []
    for name, (made, pairs) in sets.items():
        bodies = [_body(array) for array in made]
        shares = [_share(bodies, made, size) for size in (len, _lz4, _coded)]
        shares += [_share_of([_told(*pair) for pair in pairs[apart]], bodies, made) for apart in APART if pairs]
        rows.append((name, *shares, *[""] * (3 + len(APART) - len(shares))))
    apart = [f"as the difference to {apart} frame{'s' * (apart > 1)} before" for apart in APART]
    return Table(f"{title}: bytes of float32's, median", ("features", "INT8", "lz4", "zstd", *apart), rows)


def _share(bodies: Sequence[bytes], made: Sequence[Features], size: Callable[[bytes], int]) -> str:
    return _share_of([size(body) for body in bodies], bodies, made)


def _share_of(sizes: Sequence[int], bodies: Sequence[bytes], made: Sequence[Features]) -> str:
    """The share of float32's bytes, and how many times less than INT8's that is."""
    usual = median(sizes)
    return f"{usual / made[0].nbytes:.1%} ({len(bodies[0]) / usual:.2f} ×)"


def _body(array: Features) -> bytes:
    quantized = quantize(array)
    return quantized.scales.tobytes() + quantized.codes.tobytes()


def _told(base: Features, array: Features) -> int:
    """Bytes beside a header that who has `base` is sent: of the difference, or of all where that saves little."""
    before, now = (
        payload.encode(each, FeatureKey(digest_of(bytes([number])), ENCODER), codec=Codec.INT8)
        for number, each in enumerate((base, array))
    )
    told = delta.difference(before, now)
    return len(told) - now.body_at if told is not None else _coded(_body(array))


def _lz4(body: bytes) -> int:
    return len(lz4.block.compress(body, store_size=False))


def _coded(body: bytes) -> int:
    return len(zstandard.ZstdCompressor(level=LEVEL).compress(body))


# -- time ---------------------------------------------------------------------------------------------------------


async def _times(title: str, made: Sequence[Features]) -> Table:
    held = {
        each.key.packed: each
        for at, array in enumerate(made)
        if (each := payload.encode(array, FeatureKey(digest_of(b"%d" % at), ENCODER), codec=Codec.INT8))
    }
    rows = []
    _leave_for_a_network_of_ones_own()
    for mbits in MBITS:
        _make_the_link(mbits)
        plain, coded = await _End.made(held, abilities=0), await _End.made(held, abilities=messages.ZSTD)
        for number in range(WARM + GETS):
            for end in (plain, coded):
                await end.get(list(held)[number % len(held)])
        share = sum(coded.were_coded[WARM:]) / GETS
        rows.append(
            (
                f"{mbits:,} Mbit/s", seconds(made[0].nbytes * 8 / mbits / 1e6), seconds(plain.usual_s),
                seconds(coded.usual_s), f"{plain.usual_s / coded.usual_s:.2f} ×", f"{share:.0%}",
            )
        )  # fmt: skip
        plain.close()
        coded.close()
    headings = ("link", "float32, its bytes alone", "INT8 as it is", "coded where it pays", "gain", "coded")
    return Table(f"{title}: a get of one feature, one at a time, lower quartile of {GETS}", headings, rows)


class _End:
    """A link, and what answers at its other end."""

    def __init__(self, held: Mapping[bytes, Payload], abilities: int) -> None:
        self.link: Link
        self.were_coded: list[bool] = []
        self._held = held
        self._abilities = abilities
        self._took: list[float] = []
        self._answering: PeerProtocol
        self._server: Server

    @classmethod
    async def made(cls, held: Mapping[bytes, Payload], abilities: int) -> _End:
        """An open one, to itself."""
        self = cls(held, abilities)
        self._server = await TcpNetwork().listen(self._accept, ("127.0.0.1", 0))
        self.link = await dial(TcpNetwork(), self._hello(), self._server.address)
        return self

    async def get(self, key: bytes) -> None:
        """Ask for one, and check it."""
        sent = self._sent_bytes
        began = time.perf_counter()
        answered = await self.link.ask(messages.Get(key), 60.0)
        self._took.append(time.perf_counter() - began)
        assert answered is not None
        assert answered.blob == self._held[key].data
        self.were_coded.append(self._sent_bytes - sent < self._held[key].nbytes)

    @property
    def usual_s(self) -> float:
        """What a quarter of the gets stay below: the machine has other work."""
        return quantiles(self._took[WARM:], n=4)[0]

    @property
    def _sent_bytes(self) -> int:
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        return int(next(line for line in lines if line.strip().startswith("lo:")).split()[9])

    def _accept(self) -> PeerProtocol:
        self._answering = PeerProtocol(self._hello(), is_dialer=False, on_event=self._answer, on_lost=lambda *_: None)
        return self._answering

    def _answer(self, protocol: PeerProtocol, event: Event) -> None:
        if isinstance(event, Asked) and isinstance(event.request, messages.Get):
            found = self._held[event.request.key]
            protocol.connection.answer(event.stream, messages.Found(), (found.data,), found.nbytes)

    def _hello(self) -> messages.Hello:
        me = ("0" * 32, "b" * 32, "n")
        return messages.Hello(messages.PROTOCOL_VERSION, "bench", *me, "", 0, "", 0, 0, self._abilities)

    def close(self) -> None:
        """End it."""
        self.link.protocol.close()
        self._server.close()


def _leave_for_a_network_of_ones_own() -> None:
    """From here on this process has a loopback of its own, with packets as on Ethernet, and reaches nothing else."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise SystemExit(f"a network namespace of its own: {os.strerror(ctypes.get_errno())} (needs root, on Linux)")
    subprocess.run(["ip", "link", "set", "lo", "up", "mtu", "1500", "gso_max_segs", "1"], check=True)


def _make_the_link(mbits: int) -> None:
    bucket = ["rate", f"{mbits}mbit", "burst", "32kb" if mbits > 300 else "4kb", "latency", "2s"]
    subprocess.run(["tc", "qdisc", "replace", "dev", "lo", "root", "tbf", *bucket], check=True)


# -- frames -------------------------------------------------------------------------------------------------------


def _frames(video: Path) -> dict[int, Pixels]:
    """Bursts of a video's frames, by their number: its first, and those that are APART from it."""
    import av

    with av.open(str(video)) as container:
        count = container.streams.video[0].frames
        firsts = [count * burst // BURSTS for burst in range(BURSTS)]
        wanted = {first + apart for first in firsts for apart in (0, *APART)}
        return {
            number: np.asarray(frame.to_image(), np.uint8)
            for number, frame in enumerate(container.decode(video=0))
            if number in wanted
        }


def main() -> None:
    """Read the command line, measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.wire", description=__doc__)
    parser.add_argument("--encoder", metavar="SPEC", default=TINY, help=f"whose features (default: {TINY})")
    parser.add_argument("--images", type=Path, default=BUNDLED, metavar="DIRECTORY", help="photographs")
    parser.add_argument("--video", type=Path, nargs="*", default=[], metavar="FILE", help="videos, of any format")
    options = parser.parse_args()
    for table in asyncio.run(measure(options.encoder, options.images, options.video)):
        print(table.markdown(), flush=True)


if __name__ == "__main__":
    main()
