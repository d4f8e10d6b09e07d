"""What a node is told by its user: flags, `EDGECACHE_*` variables and a TOML file, in this order of precedence."""

from __future__ import annotations

import argparse
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..protocol.cloud.objects import SCHEMES, checked_url
from ..protocol.errors import InvalidValue
from .cost import ONLY_TIME, Prices
from .eviction.policies import POLICIES, POLICY_USUAL
from .interfaces import is_loopback
from .memory_readings import MemoryReadings
from .usage import OneLineParser

Address = tuple[str, int]

HTTP_PORT = 7440
ROLES = ("edge", "cloud")
CLOUD_NODE_SCHEME = "edgecache"
COPIES_MAX = 16
NAME_BYTES_MAX = 200  # what fits into an announcement, and no more than a line of a table can take
MEMORY_BYTES_MIN = 1024 * 1024
MEMORY_BYTES_MAX = 1024**4  # its table of pages takes 1/1024 of that, and what has so much is no edge device
MEMORY_SHARE = 0.25
DISK_BYTES_MIN = 16 * 1024 * 1024
DISK_SHARE = 0.1
CLOUD_DISK_SHARE = 0.8  # a cloud node's disk is there for this
DISK_BYTES_USUAL_MAX = 4 * 1024**3

_UNITS = {"": 1, "b": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for suffix, base in (("", 1024), ("ib", 1024), ("b", 1000))
}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([a-z]{0,3})", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Config:
    """One node's configuration."""

    name: str | None = None
    """What people call it; default: the host's name, with `-2` and so on for further nodes on one machine."""
    listen: Address = ("127.0.0.1", HTTP_PORT)
    """Where its HTTP face listens; port 0 takes a free one."""
    peer_listen: Address | None = None
    """Where it listens for peers; default: the host of `listen`, the port after its port, or a free one."""
    data_dir: Path | None = None
    """Where it keeps its id and its peers; default: a directory of its own below the XDG data directory."""
    memory_bytes: int | None = None
    """What its features may take in memory; default: 25 % of the memory that this process may use."""
    disk_bytes: int | None = None
    """What its features may take on disk, 0 for none; default: 10 % of what is free there, 4 GiB at most."""
    eviction: str = POLICY_USUAL
    """Which policy says what goes when memory is full; `docs/eviction.md` compares them."""
    encoder: str | None = None
    """SPEC of what encodes images on a miss; default: `edgecache/tiny` if torch is installed."""
    no_encoder: bool = False
    """Encode nothing: serve, store and share only."""
    conversions: tuple[Path, ...] = ()
    """Maps from old features to those of a new version (`edgecache-encoder fit`), to stand in until it has encoded."""
    cloud: str | None = None
    """What keeps what the devices cannot: an object store, s3://, gs://, az:// or file:///, or a cloud node,
    edgecache://HOST:PORT; `docs/cloud.md`."""
    role: str = "edge"
    """`edge`, or `cloud`: no member of a cluster, but what the nodes of one reach over the WAN by `--cloud`."""
    cluster: str = "default"
    """Only nodes of one cluster name talk to each other."""
    cluster_key: Path | None = None
    """The file of the cluster key: peers speak TLS, and only who has the key is let in, from this machine or beyond."""
    insecure: bool = False
    """Listen beyond loopback without a key: anybody on the network can read and write features."""
    seeds: tuple[Address, ...] = ()
    """Peer addresses to call besides those that mDNS finds."""
    no_mdns: bool = False
    """Neither announce this node nor look for others by mDNS."""
    replicas: int = 2
    """How many nodes keep each feature."""
    energy: Prices = ONLY_TIME
    """What a joule is worth in seconds, and how many a received byte and an encode take; `docs/waiting.md`."""
    log_format: str = "text"
    """`text` or `json`."""
    config_file: Path | None = None
    """Where some of this was read; SIGHUP has it read again, and `memory` taken up."""

    def peer_candidates(self, http_port: int) -> list[Address]:
        """Where to try to listen for peers, in this order."""
        if self.peer_listen is not None:
            return [self.peer_listen]
        host = self.listen[0]
        if self.listen[1] == 0 or http_port >= 65535:
            return [(host, 0)]
        return [(host, http_port + 1), (host, 0)]


def parse_size(text: str) -> int:
    """Bytes of `512MiB`, `4GiB`, `1.5g` or `1048576`; InvalidValue."""
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[2].lower()) if match is not None else None
    if match is None or unit is None:
        raise InvalidValue(f"{text[:40]!a}: expected a size such as 512MiB or 4GiB")
    return int(float(match[1]) * unit)


def parse_address(text: str) -> Address:
    """Host and port of `HOST:PORT` or `[IPv6]:PORT`; InvalidValue."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535
    if not colon or not host or not host.isprintable() or len(host) > 253 or not is_port:
        raise InvalidValue(f"{text[:80]!a}: expected HOST:PORT with a port from 0 to 65535")
    return host, int(port)


def load(argv: Sequence[str], environment: Mapping[str, str], parser: argparse.ArgumentParser | None = None) -> Config:
    """The configuration that flags, variables and the file make together; InvalidValue names which of them is wrong.

    A wrong flag, and `--help`, end the process as argparse does.
    """
    parsed = vars((parser or flag_parser()).parse_args(argv))
    flags = {f"--{key.replace('_', '-')}": (key, value) for key, value in parsed.items() if value is not None}
    variables = {
        name: (key, environment[name]) for key in _FIELDS if (name := f"EDGECACHE_{key.upper()}") in environment
    }
    layers: list[dict[str, tuple[str, Any]]] = [flags, variables]
    _, config_file = flags.pop("--config", ("", environment.get("EDGECACHE_CONFIG")))
    if config_file is not None:
        table = _read_toml(Path(config_file))
        layers.append({f"{config_file}: {key}": (key, value) for key, value in table.items()})
    values: dict[str, Any] = {}
    for layer in layers:
        read = {}
        for spelled, (key, raw) in layer.items():
            try:
                read[key] = _FIELDS[key](raw)
            except InvalidValue as error:
                raise InvalidValue(f"{spelled}: {error}") from None
        if "encoder" in read and read.get("no_encoder"):
            raise InvalidValue("an encoder and no encoder: which of them?")
        if "no_encoder" in values or "encoder" in values:  # a stronger layer has said which
            read.pop("encoder", None)
            read.pop("no_encoder", None)
        values = read | values
    if values.get("insecure") and "cluster_key" in values:
        # Whatever layers they come from: a forgotten line in a file must not open a cluster that was given a key.
        raise InvalidValue(
            "--cluster-key and --insecure: choose --cluster-key to let in who has the key, or --insecure for everybody"
        )
    config = Config(
        **{_RENAMED.get(key, key): value for key, value in values.items()},
        config_file=Path(config_file) if config_file is not None else None,
    )
    _check_cloud(config)
    return config


def cloud_node_address(url: str) -> Address | None:
    """Where the cloud node of an edgecache:// URL listens for its edges; None for any other URL. InvalidValue."""
    scheme, _, rest = url.partition("://")
    if scheme != CLOUD_NODE_SCHEME:
        return None
    try:
        return parse_address(rest)
    except InvalidValue:
        raise InvalidValue(
            f"{url[:80]!a}: expected {CLOUD_NODE_SCHEME}://HOST:PORT, the peer port of a cloud node"
        ) from None


def _check_cloud(config: Config) -> None:
    """Features cross a WAN encrypted, and a cloud node is asked, and asks nobody."""
    if config.role == "cloud":
        for flag, given in (("--cloud", config.cloud), ("--seed", config.seeds), ("--encoder", config.encoder)):
            if given:
                raise InvalidValue(f"--role cloud: takes no {flag}, for it is asked, and neither asks nor encodes")
        listens_at = [config.listen, *([config.peer_listen] if config.peer_listen is not None else [])]
        if config.insecure and any(not is_loopback(host) for host, _ in listens_at):
            raise InvalidValue(
                "--role cloud: listens beyond loopback with --cluster-key FILE only, not --insecure: whoever reaches "
                "it could read and replace the features of every site"
            )
        return
    address = cloud_node_address(config.cloud) if config.cloud is not None else None
    if address is not None and config.cluster_key is None and not is_loopback(address[0]):
        raise InvalidValue(
            f"--cloud {config.cloud}: features cross a network to a cloud node with --cluster-key FILE only, and with "
            "the key that it has"
        )


def flag_parser() -> argparse.ArgumentParser:
    """The flags of `edgecache-node`. Values stay text, so that every source is read by the same code."""
    parser = OneLineParser(
        prog="edgecache-node",
        description="One member of a cluster of devices that share the features of images.",
        epilog="Every flag is also a key of the TOML file and a variable: --peer-listen, peer_listen, "
        "EDGECACHE_PEER_LISTEN. Flags win, then variables, then the file.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--name", help="what people call this node (default: the host's name)")
    add("--listen", metavar="HOST:PORT", help="HTTP (default: 127.0.0.1:7440; port 0 takes a free one)")
    add("--peer-listen", metavar="HOST:PORT", help="peers (default: the port after that of --listen: 7441)")
    add("--data-dir", metavar="DIR", help="where its id and its peers are kept (default: below the XDG data directory)")
    add("--memory", metavar="SIZE", help="memory for features, such as 512MiB (default: 25 %% of what there is)")
    add("--disk", metavar="SIZE", help="disk for features, such as 8GiB; 0: memory only (default: 10 %% of what is "
        "free below --data-dir, 4GiB at most)")  # fmt: skip
    add("--eviction", metavar="POLICY", help="who goes when memory is full: one of "
        f"{', '.join(POLICIES)} (default: {POLICY_USUAL})")  # fmt: skip
    add("--encoder", metavar="SPEC", help="edgecache/tiny, hf:ID-or-directory, vit:FILE, onnx:FILE, PROFILE.toml or "
        "module:python.path:factory (default: edgecache/tiny if torch is installed)")  # fmt: skip
    add("--no-encoder", action="store_true", default=None, help="encode nothing: serve, store and share only")
    add("--convert", metavar="FILE", action="append", help="after an upgrade, answer by this map from the old "
        "version's features (edgecache-encoder fit) until the new ones are encoded; repeatable")  # fmt: skip
    add("--cloud", metavar="URL", help="what keeps what the devices cannot: an object store, s3://BUCKET/PREFIX, "
        "gs://, az:// or file:///DIR (needs edgecache[cloud]), or a cloud node, edgecache://HOST:PORT")  # fmt: skip
    add("--role", metavar="edge|cloud", help="cloud: no member of the cluster, but a node with a big disk that its "
        "nodes reach by --cloud edgecache://HOST:PORT, this one's peer port (default: edge)")  # fmt: skip
    add("--cluster", metavar="NAME", help="only nodes of one cluster name talk to each other (default: default)")
    add("--cluster-key", metavar="FILE", help="let in only who has this key; edgecache key new FILE makes one")
    add("--insecure", action="store_true", default=None, help="listen beyond loopback without a key")
    add("--seed", metavar="HOST:PORT", action="append", help="peer to call besides those mDNS finds; repeatable")
    add("--no-mdns", action="store_true", default=None, help="no announcement, no search: seeds and known peers only")
    add("--replicas", metavar="N", help="how many nodes keep each feature (default: 2)")
    add("--energy", metavar="S,J,J", help="on a battery: seconds that a joule is worth, joules to receive a byte and "
        "to encode an image, such as 0.1,1e-6,2.4 (default: only time counts)")  # fmt: skip
    add("--config", metavar="FILE.toml", help="read these settings from a file; SIGHUP has its memory read again")
    add("--log-format", metavar="text|json", help="of the log on standard error (default: text)")
    return parser


def default_memory_bytes() -> int:
    """25 % of the memory that this process may use: the machine's, or its cgroup's where that is less."""
    usable = MemoryReadings().limit_bytes or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(MEMORY_BYTES_MIN, int(usable * MEMORY_SHARE))


def default_disk_bytes(directory: Path, held_bytes: int, *, is_cloud: bool = False) -> int:
    """10 % of what is free on the file system of `directory`, of which `held_bytes` are ours by now; 4 GiB at most.

    80 % for a cloud node, without that limit. 0 where it would be too little to be worth it.
    """
    there = os.statvfs(directory)
    free_bytes = there.f_bavail * there.f_frsize + held_bytes
    share = int(free_bytes * CLOUD_DISK_SHARE) if is_cloud else min(int(free_bytes * DISK_SHARE), DISK_BYTES_USUAL_MAX)
    return share if share >= DISK_BYTES_MIN else 0


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise InvalidValue(f"--config {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidValue(f"--config {path}: {error}") from None
    table = {key.replace("-", "_"): value for key, value in table.items()}
    unknown = sorted(table.keys() - _FIELDS.keys())
    if unknown:
        raise InvalidValue(f"{path}: {unknown[0]}: no such setting; there are {', '.join(sorted(_FIELDS))}")
    return table


# -- one reader a setting: text from a flag or variable, or a TOML value ---------------------------------------


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise InvalidValue(f"{value!a}: expected a text that prints")
    return value


def _name(value: object) -> str:
    text = _text(value)
    if len(text.encode()) > NAME_BYTES_MAX:
        raise InvalidValue(f"name of {len(text.encode())} bytes: at most {NAME_BYTES_MAX}")
    return text


def _cloud(value: object) -> str:
    url = _text(value)
    if cloud_node_address(url) is None:
        try:
            checked_url(url)
        except InvalidValue as error:
            hint = f" or {CLOUD_NODE_SCHEME}://" if url.partition(":")[0] not in SCHEMES else ""
            raise InvalidValue(f"{error}{hint}") from None
    return url


def _role(value: object) -> str:
    if value not in ROLES:
        raise InvalidValue(f"{value!a}: expected {' or '.join(ROLES)}")
    return str(value)


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("1", "true", "yes", "on"):
        return True
    if isinstance(value, str) and value.lower() in ("", "0", "false", "no", "off"):
        return False
    raise InvalidValue(f"{value!a}: expected true or false")


def _memory(value: object) -> int:
    size = value if isinstance(value, int) and not isinstance(value, bool) else parse_size(_text(value))
    if size < MEMORY_BYTES_MIN:
        raise InvalidValue(f"{value!a}: at least {MEMORY_BYTES_MIN} bytes")
    if size > MEMORY_BYTES_MAX:
        raise InvalidValue(f"{value!a}: at most {MEMORY_BYTES_MAX} bytes")
    return size


def _disk(value: object) -> int:
    size = value if isinstance(value, int) and not isinstance(value, bool) else parse_size(_text(value))
    if size != 0 and size < DISK_BYTES_MIN:
        raise InvalidValue(f"{value!a}: at least {DISK_BYTES_MIN} bytes, or 0 for no disk")
    return size


def _eviction(value: object) -> str:
    if not isinstance(value, str) or value not in POLICIES:
        raise InvalidValue(f"{value!a}: expected one of {', '.join(POLICIES)}")
    return value


def _seeds(value: object) -> tuple[Address, ...]:
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list):
        raise InvalidValue(f"{value!a}: expected a list of HOST:PORT")
    return tuple(_seed(_text(seed).strip()) for seed in given)


def _seed(text: str) -> Address:
    address = parse_address(text)
    if address[1] == 0:
        raise InvalidValue(f"{text[:80]!a}: expected the port of a peer, from 1 to 65535")
    return address


def _replicas(value: object) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= COPIES_MAX):
        raise InvalidValue(f"{value!a}: expected a number from 1 to {COPIES_MAX}")
    return int(text)


def _energy(value: object) -> Prices:
    try:
        per_joule, per_byte, per_encode = (float(part) for part in _text(value).split(","))
    except ValueError:
        per_joule = per_byte = per_encode = math.nan
    if not all(0 <= number < math.inf for number in (per_joule, per_byte, per_encode)):
        raise InvalidValue(f"{value!a}: expected seconds per joule, joules per byte and per encode: 0.1,1e-6,2.4")
    return Prices(per_joule, per_byte, per_encode)


def _log_format(value: object) -> str:
    if value not in ("text", "json"):
        raise InvalidValue(f"{value!a}: expected text or json")
    return str(value)


def _address(value: object) -> Address:
    return parse_address(_text(value))


def _path(value: object) -> Path:
    path = Path(_text(value))
    try:
        return path.expanduser()
    except RuntimeError:
        raise InvalidValue(f"{value!a}: nobody knows the home directory of {path.parts[0]}") from None


def _paths(value: object) -> tuple[Path, ...]:
    given = value.split(os.pathsep) if isinstance(value, str) else value
    if not isinstance(given, list):
        raise InvalidValue(f"{value!a}: expected a list of files")
    return tuple(_path(path) for path in given)


_FIELDS: dict[str, Callable[[object], Any]] = {
    "name": _name,
    "listen": _address,
    "peer_listen": _address,
    "data_dir": _path,
    "memory": _memory,
    "disk": _disk,
    "eviction": _eviction,
    "encoder": _text,
    "no_encoder": _flag,
    "convert": _paths,
    "cloud": _cloud,
    "role": _role,
    "cluster": _name,
    "cluster_key": _path,
    "insecure": _flag,
    "seed": _seeds,
    "no_mdns": _flag,
    "replicas": _replicas,
    "energy": _energy,
    "log_format": _log_format,
}
_RENAMED = {"memory": "memory_bytes", "disk": "disk_bytes", "seed": "seeds", "convert": "conversions"}
