"""A scenario: devices, what they hang on, what they are asked for, and what happens to them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..node.config import parse_size
from ..node.eviction.policies import POLICIES, POLICY_USUAL
from ..node.membership import MEMBERS_MAX
from ..node.store.memory import ENTRY_OVERHEAD_BYTES
from ..protocol.errors import InvalidValue
from ..protocol.payload import Codec
from .devices import Device, device_named, measured, model_named
from .faults import FAULTS
from .links import link_named
from .workloads.catalogue import WORKLOADS, workload
from .workloads.log import IMAGE_BYTES_MAX

HEADER_BYTES = 192  # of a payload whose encoder has a name as short as a modelled one's
DEVICES_MAX = MEMBERS_MAX
SEED_MAX = 2**53 - 1  # what every reader of JSON and of tables keeps exactly
SIZE_MAX = 2**50  # of a memory or a disk
REPLICAS_MAX = 16
HOURS_MAX = 24.0 * 366
_MIB = 1024**2


@dataclass(frozen=True)
class Scenario:
    """Everything that a run depends on: the same scenario gives the same result."""

    name: str = "custom"
    about: str = ""
    workload: str = "retail"
    """One of workloads/catalogue.py, or the path of a log."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Of the workload."""
    devices: int = 8
    hours: float = 24.0
    """How long requests come; a log ends by itself before that."""
    seed: int = 1
    device: str = "rpi5"
    device_numbers: Mapping[str, float] = field(default_factory=dict)
    """Of your own devices, instead of those in devices.py."""
    model: str = "vit-b16"
    link: str = "wifi"
    """What devices hang on."""
    uplink: str = "wan"
    """The site's way to the cloud."""
    cloud: bool = False
    """Whether there is a cloud tier; the comparison with doing everything in the cloud is made in any case."""
    memory_bytes: int = 0
    """For features on each device; 0 for the device's usual share."""
    disk_bytes: int = 0
    """0 for none."""
    policy: str = POLICY_USUAL
    replicas: int = 2
    image_bytes: int = 120_000
    """Of an image that is sent to the cloud, unless a log says what each has: a JPEG of 640 × 480."""
    faults: tuple[str, ...] = ()

    def checked(self) -> Scenario:
        """This scenario, if it can be run; InvalidValue says what is wrong."""
        model_named(self.model)
        measured(device_named(self.device), self.model, self.device_numbers)
        link_named(self.link)
        link_named(self.uplink)
        for fault in self.faults:
            if fault not in FAULTS:
                raise InvalidValue(f"there is no fault {fault!r}, but {', '.join(FAULTS)}")
        if self.policy not in POLICIES:
            raise InvalidValue(f"there is no policy {self.policy!r}, but {', '.join(POLICIES)}")
        if self.is_log:
            if self.parameters:
                raise InvalidValue(f"a log has no parameters such as {next(iter(self.parameters))!r}")
        else:
            workload(self.workload, self.parameters)
        _between("devices", self.devices, 1, DEVICES_MAX)
        _between("replicas", self.replicas, 1, REPLICAS_MAX)
        _between("image_bytes", self.image_bytes, 1, IMAGE_BYTES_MAX)
        _between("seed", self.seed, 0, SEED_MAX)
        if not 0 < self.hours <= HOURS_MAX:
            raise InvalidValue(f"hours = {self.hours:g}: expected more than 0 and at most {HOURS_MAX:g}")
        smallest = entry_bytes(self.model)
        for what, size in (("memory", self.memory_bytes), ("disk", self.disk_bytes)):
            if size and size < smallest:
                raise InvalidValue(f"{what} of {size} bytes: the features of one image have {smallest}")
            if size > SIZE_MAX:
                raise InvalidValue(f"{what} of {size} bytes: at most {SIZE_MAX}")
        return self

    @property
    def is_log(self) -> bool:
        """Whether the workload is a file."""
        return self.workload.endswith((".csv", ".parquet"))

    @property
    def memory(self) -> int:
        """Bytes for features on each device."""
        return self.memory_bytes or self.profile.memory_bytes

    @property
    def profile(self) -> Device:
        """What each device is like."""
        device = device_named(self.device)
        return measured(device, self.model, self.device_numbers) if self.device_numbers else device


def entry_bytes(model: str) -> int:
    """What the features of one image take in a store."""
    tokens, dim = model_named(model)
    return HEADER_BYTES + Codec.INT8.body_bytes(tokens, dim) + ENTRY_OVERHEAD_BYTES


_SMALL = 64 * _MIB
SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        scenario.name: scenario
        for scenario in (
            Scenario("retail", "a shop floor of Raspberry Pis: product photographs and recurring scenes", "retail",
                     cloud=True, memory_bytes=_SMALL),
            Scenario("warehouse", "robots on the same routes", "warehouse", devices=12, hours=8,
                     device="jetson-orin-nano", memory_bytes=_SMALL),
            Scenario("street", "cameras along a street hand vehicles on", "street", devices=10, hours=12, link="lan",
                     uplink="4g", memory_bytes=_SMALL),
            Scenario("kiosks", "a fleet of kiosks shows pictures from a catalogue", "kiosks", devices=16, hours=12,
                     device="x86-mini-pc", link="lan", cloud=True, memory_bytes=128 * _MIB),
            Scenario("drones", "drones survey neighbouring strips of ground", "drones", devices=6, hours=4,
                     device="jetson-orin-nano", link="5g", uplink="5g", memory_bytes=512 * _MIB),
            Scenario("video", "video: most frames are like the one before", "video", devices=8, hours=4,
                     memory_bytes=_SMALL),
            Scenario("cameras", "a site's cameras, whose scenes recur by the hour", "cameras", devices=6, hours=12,
                     device="x86-mini-pc", link="lan", memory_bytes=128 * _MIB),
            Scenario("flash-crowd", "in the middle of the day everybody asks for the same five pictures", "flash-crowd",
                     devices=16, hours=4, device="rpi5", cloud=True, memory_bytes=_SMALL),
            Scenario("churn", "devices die and come back, every few minutes another", "kiosks", devices=10, hours=4,
                     device="rpi5", memory_bytes=_SMALL, faults=("churn",)),
            Scenario("partition", "the network falls into two halves for a while, twice", "kiosks", devices=10, hours=2,
                     device="rpi5", memory_bytes=_SMALL, faults=("partition",)),
            Scenario("slow-device", "one device is 300 ms slow", "kiosks", devices=10, hours=2,
                     device="rpi5", memory_bytes=_SMALL, faults=("slow-device",)),
            Scenario("cloud-outage", "the cloud is out of reach for a third of the run", "retail", devices=8, hours=6,
                     cloud=True, memory_bytes=_SMALL, faults=("cloud-outage",)),
            Scenario("rolling-upgrade", "one device after the other gets a new version of the encoder", "retail",
                     devices=8, hours=6, memory_bytes=_SMALL, faults=("rolling-upgrade",)),
        )
    }
)  # fmt: skip


def scenario_named(text: str, changes: Mapping[str, Any]) -> Scenario:
    """The scenario of that name, or of that `.toml` file, with `changes` to its fields; InvalidValue."""
    if text.endswith(".toml"):
        scenario = _from_file(Path(text))
    elif text in SCENARIOS:
        scenario = SCENARIOS[text]
    else:
        raise InvalidValue(f"there is no scenario {text!r}, but {', '.join(SCENARIOS)}, or FILE.toml")
    return changed(scenario, changes)


def preset(name: object) -> Scenario:
    """One of SCENARIOS; InvalidValue says which there are."""
    if not isinstance(name, str) or name not in SCENARIOS:
        raise InvalidValue(f"there is no scenario {name!r}, but {', '.join(SCENARIOS)}")
    return SCENARIOS[name]


def changed(scenario: Scenario, changes: Mapping[str, Any]) -> Scenario:
    """`scenario` with other values, as a file or a command line gives them; InvalidValue."""
    read: dict[str, Any] = {}
    parameters = dict(scenario.parameters)
    # The workload first: what else is said may be one of its parameters.
    for key, value in sorted(changes.items(), key=lambda change: change[0] != "workload"):
        if key == "workload" and isinstance(value, Mapping):
            parameters = {name: given for name, given in value.items() if name != "kind"}
            read["workload"] = _text("workload.kind", value.get("kind", scenario.workload))
        elif key == "workload":
            read["workload"], parameters = _text(key, value), {}
        elif key == "device":
            table = value if isinstance(value, Mapping) else {"kind": value}
            read["device"] = _text(key, table.get("kind", scenario.device))
            read["device_numbers"] = {name: _number(name, given) for name, given in table.items() if name != "kind"}
        elif key in ("overlap", *_parameters_of(read.get("workload", scenario.workload))):
            parameters[key] = value
        elif key in _READERS:
            name, reader = _READERS[key]
            read[name] = reader(key, value)
        else:
            raise InvalidValue(f"{key}: no such setting; there are {', '.join(sorted(_SETTINGS))}")
    return replace(scenario, parameters=parameters, **read).checked()


def _from_file(path: Path) -> Scenario:
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidValue(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        base = preset(table.pop("scenario")) if "scenario" in table else Scenario()
        return changed(replace(base, name=path.stem), table)
    except InvalidValue as error:
        raise InvalidValue(f"{path}: {error}") from None


def _parameters_of(name: str) -> list[str]:
    return [parameter.name for parameter in fields(WORKLOADS[name])] if name in WORKLOADS else []


def _between(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidValue(f"{what} = {value}: expected {least} to {most}")


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidValue(f"{key} = {value!r}: expected a name")
    return value


def _whole(key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidValue(f"{key} = {value!r}: expected a whole number")
    return value


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValue(f"{key} = {value!r}: expected a number")
    return float(value)


def _flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidValue(f"{key} = {value!r}: expected true or false")
    return value


def _memory(key: str, value: object) -> int:
    size = _size(key, value)
    if size <= 0:
        raise InvalidValue(f"{key} = {value!r}: a device without memory holds nothing")
    return size


def _size(key: str, value: object) -> int:
    if not isinstance(value, str):
        size = _whole(key, value)
    else:
        try:
            size = parse_size(value)
        except InvalidValue as error:
            raise InvalidValue(f"{key}: {error}") from None
    if size < 0:
        raise InvalidValue(f"{key} = {value!r}: expected a size such as 512MiB")
    return size


def _names(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise InvalidValue(f"{key} = {value!r}: expected a list of names")
    return tuple(_text(key, name) for name in value)


_READERS = {
    "about": ("about", _text),
    "devices": ("devices", _whole),
    "hours": ("hours", _number),
    "seed": ("seed", _whole),
    "model": ("model", _text),
    "link": ("link", _text),
    "uplink": ("uplink", _text),
    "cloud": ("cloud", _flag),
    "memory": ("memory_bytes", _memory),
    "disk": ("disk_bytes", _size),
    "policy": ("policy", _text),
    "replicas": ("replicas", _whole),
    "image_bytes": ("image_bytes", _whole),
    "faults": ("faults", _names),
}
_SETTINGS = ("device", "workload", *_READERS)
