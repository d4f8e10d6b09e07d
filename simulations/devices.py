"""Devices and models: how long encoding takes, what it needs in joules, and how fast the rest of the device is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from ..protocol.errors import InvalidValue

_MB, _GIB = 10**6, 1024**3

# (tokens, dim) of what each makes of an image of 224 × 224.
MODELS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"clip-b32": (50, 768), "vit-s16": (197, 384), "vit-b16": (197, 768)}
)


@dataclass(frozen=True, slots=True)
class Device:
    """One kind of device; `sources` says where each of its numbers is from."""

    name: str
    encode_s: Mapping[str, float]
    """By model; one image at a time."""
    encode_watts: float
    """Above idle, while it encodes."""
    memory_bytes: int
    """For features: a quarter of its RAM, as the node takes it by default."""
    disk_seek_s: float
    disk_read_bytes_per_s: float
    disk_write_bytes_per_s: float
    answer_s: float
    """From a program's request to its answer over HTTP, when the features lie in memory."""
    message_s: float
    """Processor time before a message between nodes goes out or is understood."""
    sources: Mapping[str, str]

    def joules_per_encode(self, model: str) -> float:
        """What one image of `model` takes, above idle."""
        return self.encode_watts * self.encode_s[model]


_ANSWERS = (
    "estimated: 0.37 ms over HTTP and 0.20 ms between two nodes were measured on an AMD EPYC (README), times {} for "
    "its slower core"
)
_CORTEX = (
    "estimated from 81 GFLOP/s: RT-DETR-R50, 136 GFLOP, runs at 0.6 images/s on a Raspberry Pi 5 with ONNX Runtime "
    "float32 (visionanalysis.org, 48 models on that board); ViT-B/16 is 35, ViT-S/16 9.2 and CLIP B/32 8.7 GFLOP"
)

DEVICES: Mapping[str, Device] = MappingProxyType(
    {
        device.name: device
        for device in (
            Device(
                "rpi4", {"clip-b32": 0.250, "vit-s16": 0.260, "vit-b16": 0.990}, 3.7, 1 * _GIB,
                0.0010, 40 * _MB, 20 * _MB, 0.0019, 0.00025,
                {
                    "encode_s": _CORTEX + ", times 2.3, which is the ratio of their sysbench results (zbotic.in)",
                    "encode_watts": "estimated: 6.4 W loaded less 2.7 W idle, as reviews give them",
                    "memory_bytes": "a quarter of 4 GiB",
                    "disk": "estimated from the 50 MB/s of its microSD slot (UHS-I DDR50)",
                    "answer_s, message_s": _ANSWERS.format("5"),
                },
            ),
            Device(
                "rpi5", {"clip-b32": 0.107, "vit-s16": 0.113, "vit-b16": 0.430}, 5.5, 2 * _GIB,
                0.0005, 90 * _MB, 40 * _MB, 0.0009, 0.00012,
                {
                    "encode_s": _CORTEX,
                    "encode_watts": "estimated: 8.2 W loaded less 2.7 W idle, as reviews give them",
                    "memory_bytes": "a quarter of 8 GiB",
                    "disk": "estimated from the 104 MB/s of its microSD slot (UHS-I SDR104)",
                    "answer_s, message_s": _ANSWERS.format("2.5"),
                },
            ),
            Device(
                "jetson-orin-nano", {"clip-b32": 0.006, "vit-s16": 0.006, "vit-b16": 0.017}, 8.0, 2 * _GIB,
                0.0001, 1500 * _MB, 1000 * _MB, 0.0011, 0.00015,
                {
                    "encode_s": "estimated: NVIDIA's NanoOWL runs OWL-ViT B/32 at 768 × 768 (100 GFLOP) at 95 images/s "
                    "on a Jetson AGX Orin, which has four times its GPU; 2 ms added for a batch of one",
                    "encode_watts": "estimated: 15 W mode less 7 W idle",
                    "memory_bytes": "a quarter of 8 GiB",
                    "disk": "estimated: NVMe on PCIe 3.0 × 4",
                    "answer_s, message_s": _ANSWERS.format("3"),
                },
            ),
            Device(
                "x86-mini-pc", {"clip-b32": 0.050, "vit-s16": 0.048, "vit-b16": 0.194}, 12.0, 4 * _GIB,
                0.0001, 1500 * _MB, 1000 * _MB, 0.0006, 0.00008,
                {
                    "encode_s": "estimated: half of the 101, 96 and 387 ms that ONNX Runtime float32 took on one "
                    "thread of an AMD EPYC, for the four slower cores of an Intel N100",
                    "encode_watts": "estimated: 18 W loaded less 6 W idle",
                    "memory_bytes": "a quarter of 16 GiB",
                    "disk": "estimated: NVMe on PCIe 3.0 × 4",
                    "answer_s, message_s": _ANSWERS.format("1.6"),
                },
            ),
            Device(
                "phone", {"clip-b32": 0.006, "vit-s16": 0.005, "vit-b16": 0.0115}, 3.0, 1 * _GIB,
                0.0002, 500 * _MB, 200 * _MB, 0.0008, 0.0001,
                {
                    "encode_s": "CLIP's image encoders on an iPhone 12 Pro Max: 5.9 ms (B/32) and 11.5 ms (B/16), "
                    "MobileCLIP (arXiv 2311.17049); ViT-S/16 estimated from its FLOP",
                    "encode_watts": "estimated",
                    "memory_bytes": "a quarter of 4 GiB: a phone's programs get no more",
                    "disk": "estimated: UFS 2",
                    "answer_s, message_s": _ANSWERS.format("2"),
                },
            ),
        )
    }
)  # fmt: skip


def device_named(name: str) -> Device:
    """The device of that name; InvalidValue says which there are."""
    if name not in DEVICES:
        raise InvalidValue(f"there is no device {name!r}, but {', '.join(DEVICES)}")
    return DEVICES[name]


# Of a device, what may be given instead of its own: an encode as `edgecache-encoder bench` measures it, watts above
# idle while it encodes, an answer from memory over HTTP, and processor time of a message between nodes.
NUMBERS = ("encode_ms", "encode_watts", "answer_ms", "message_ms")
NUMBER_MAX = 1e6


def measured(device: Device, model: str, numbers: Mapping[str, float]) -> Device:
    """`device` with numbers of your own; InvalidValue says which there are, and what is wrong."""
    for name, value in numbers.items():
        if name not in NUMBERS:
            raise InvalidValue(f"a device has no number {name!r}, but {', '.join(NUMBERS)}")
        if not (0 <= value <= NUMBER_MAX and (value or name == "encode_watts")):
            raise InvalidValue(
                f"{name} = {value:g} of device {device.name}: expected more than 0, at most {NUMBER_MAX:g}"
            )
    encode_s = numbers["encode_ms"] / 1000 if "encode_ms" in numbers else device.encode_s[model]
    return replace(
        device,
        encode_s={**device.encode_s, model: encode_s},
        encode_watts=numbers.get("encode_watts", device.encode_watts),
        answer_s=numbers.get("answer_ms", device.answer_s * 1000) / 1000,
        message_s=numbers.get("message_ms", device.message_s * 1000) / 1000,
    )


def model_named(name: str) -> tuple[int, int]:
    """(tokens, dim) of the model of that name; InvalidValue says which there are."""
    if name not in MODELS:
        raise InvalidValue(f"there is no model {name!r}, but {', '.join(MODELS)}")
    return MODELS[name]
