"""Who this node is: an id that outlives restarts, held by one running node at a time, and not by a copy of its disk.

The id rests in the data directory, because it belongs to what is stored there: the ring gave this id its share of the
keys. Three things could make two nodes answer to one id, and each is met here:

- *Two processes on one directory.* A running node holds a lock on its directory. With no directory named, nodes on one
  machine take the first free of `node-1`, `node-2`, ... below the default root.
- *A cloned disk image.* Beside the id rest marks of the machine it was made on. Hardware that both the marks and this
  machine know must agree; otherwise the id belongs to the original, and this node makes its own.
- *What those cannot see* (virtual machines with equal hardware, a copied container): the cluster notices, and the newer
  node calls `renew`.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..protocol.errors import InvalidValue
from .interfaces import is_virtual
from .small_files import read_small_file, replace_small_file, set_aside

# Slots below the default root. More nodes than that on one machine are a test, and tests name their directories.
SLOTS_MAX = 64
NODE_FILE_BYTES_MAX = 64 * 1024
MARKS_MAX = 64

_NO_SLOT = 0
_NODE_FILE = "node.json"
_LOCK_FILE = "lock"
_ID_DIGITS = 32
_BOOT_TIME_DIGITS = 12
_NOT_SERIALS = frozenset(
    {
        "none",
        "default string",
        "not specified",
        "not applicable",
        "to be filled by o.e.m.",
        "system serial number",
        "base board serial number",
        "123456789",
        "03000200-0400-0500-0006-000700080009",  # the uuid of some ten thousand mini PCs
    }
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """`id`: 32 hexadecimal digits, for as long as the data directory lives. `boot`: 32 more, new at each start.

    Boots of one id are ordered by their text, also on a device that wakes up in 1970. `data_dir` is None when nothing
    can be written: then the id is a temporary one. `slot` numbers the nodes on the default root from 1; 0 elsewhere.
    """

    id: str
    boot: str
    data_dir: Path | None
    slot: int


class Marks(msgspec.Struct, frozen=True):
    """What tells this machine from another: digests, since serial numbers are nobody else's business.

    `serials` and `cards` (permanent addresses of real network cards; a randomised Wi-Fi address is none) stay with the
    hardware. `virtual` addresses are all that a container or a network namespace has, and may change when it is made
    anew.
    """

    serials: tuple[str, ...] = ()
    cards: tuple[str, ...] = ()
    virtual: tuple[str, ...] = ()


class Kin(enum.Enum):
    """What the marks in a directory say about where it was made."""

    HERE = "here"
    ELSEWHERE = "elsewhere"
    UNSURE = "unsure"


def kin(stored: Marks, mine: Marks) -> Kin:
    """Whether a directory with the marks `stored` was made on the machine that has `mine`.

    Each kind of hardware mark that both sides know must have one in common: a USB network card that is gone or new
    changes nothing, and a board serial that a whole series shares is not enough. Without any hardware in common
    knowledge, another virtual address is a doubt only. Nothing to compare: the disk is believed.
    """
    known = [(a, b) for a, b in ((stored.serials, mine.serials), (stored.cards, mine.cards)) if a and b]
    if known:
        return Kin.HERE if all(set(a) & set(b) for a, b in known) else Kin.ELSEWHERE
    if stored.virtual and mine.virtual and not set(stored.virtual) & set(mine.virtual):
        return Kin.UNSURE
    return Kin.HERE


class _NodeFile(msgspec.Struct, frozen=True):
    """What `node.json` holds. `inode` is its directory's: another in a copy made file by file, not on a cloned disk."""

    id: str
    boot: str
    marks: Marks
    inode: int

    def __post_init__(self) -> None:
        for name, digits in (("id", self.id), ("boot", self.boot)):
            if len(digits) != _ID_DIGITS or not set(digits) <= set("0123456789abcdef"):
                raise ValueError(f"{name} is not {_ID_DIGITS} hexadecimal digits")


class HeldIdentity:
    """An identity that no other process can take until `release`. Ends with the process too."""

    def __init__(self, identity: Identity, marks: Marks, lock: int | None) -> None:
        self.identity = identity
        self._marks = marks
        self._lock = lock

    def renew(self) -> Identity:
        """Take a new id for good, because another live node was found with this one. Blocks for an fsync."""
        old = self.identity
        self.identity = replace(old, id=_new_id(), boot=_next_boot(old.boot))
        _log.warning("node id %s is another live node's too: this one is %s from now on", old.id, self.identity.id)
        try:
            self.remember()
        except OSError as error:
            _log.warning("the new node id cannot be written (%s): it lasts until this node stops", error)
        return self.identity

    def remember(self) -> None:
        """Write the identity into its directory, if it has one. OSError as the disk says it."""
        if (directory := self.identity.data_dir) is None:
            return
        content = _NodeFile(self.identity.id, self.identity.boot, self._marks, directory.stat().st_ino)
        replace_small_file(directory / _NODE_FILE, msgspec.json.format(msgspec.json.encode(content)))

    def release(self) -> None:
        """Let another process have the directory. Harmless when repeated."""
        if self._lock is not None:
            os.close(self._lock)  # the last descriptor of a flock takes the lock with it
            self._lock = None


def claim(data_dir: Path | None, default_root: Path | None, marks: Marks | None = None) -> HeldIdentity:
    """The identity in `data_dir`, or in the slot of `default_root` that is this machine's, made if there is none.

    InvalidValue when another node holds `data_dir`. A directory that cannot be written is no error: the node runs with
    a temporary id, as it does where there is neither. `marks` are this machine's unless a test gives others. Blocks for
    a few file operations.
    """
    marks = machine_marks() if marks is None else marks
    try:
        if data_dir is not None:
            if (lock := _lock(data_dir)) is None:
                raise InvalidValue(f"data directory {data_dir} is in use by process {_holder(data_dir)}")
            return _settle(data_dir, _NO_SLOT, marks, lock)
        if default_root is None:
            raise FileNotFoundError("this user has no home directory: say --data-dir DIR")
        return _claim_slot(default_root, marks)
    except OSError as error:
        _log.warning("degraded: no data directory (%s): memory only, and the node id is a temporary one", error)
        return HeldIdentity(Identity(_new_id(), _next_boot(""), None, _NO_SLOT), marks, None)


def machine_marks(system: Path = Path("/sys"), device_tree: Path = Path("/proc/device-tree")) -> Marks:
    """The marks of this machine, as far as this user may read them. Empty where there is no /sys."""
    # The product's uuid is for root only, so a node started as another user may know other kinds than are stored.
    sources = [system / "class/dmi/id" / name for name in ("product_uuid", "product_serial", "board_serial")]
    sources.append(device_tree / "serial-number")
    serials = [text for source in sources if _is_serial(text := _line(source))]
    cards, virtual = [], []
    for interface in _listed(system / "class/net"):
        address = _line(interface / "address").lower()
        if _line(interface / "type") != "1" or address in ("", "00:00:00:00:00:00"):  # 1 is ARPHRD_ETHER
            continue
        if not (interface / "device").exists():
            if not is_virtual(interface.name):
                virtual.append(address)
        elif _line(interface / "addr_assign_type") == "0":  # NET_ADDR_PERM: burnt in, not random and not set by a user
            cards.append(address)
    return Marks(_digests(serials), _digests(cards), _digests(virtual))


def _claim_slot(root: Path, marks: Marks) -> HeldIdentity:
    """The free slot that was made on this machine, else a fresh one, else the one that was left longest ago.

    Slots of other machines are left alone while there is room: several machines or network namespaces may share this
    root, and the owner may only be switched off.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Looking into a slot takes its lock for a moment, so nodes that start at once take turns.
    turn = _open_lock(root)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        found = [_slot_found(root, slot, marks) for slot in range(1, SLOTS_MAX + 1)]
        free = sorted(slot for slot in found if slot is not None)
        if free and free[0].kinship != _OURS and any(slot.kinship == _STRANGE for slot in free):
            _log.warning("%s holds node directories made on another machine: is this disk a copy?", root)
        for _, _, slot in free:
            directory = root / f"node-{slot}"
            if (lock := _lock(directory)) is not None:
                return _settle(directory, slot, marks, lock)
    finally:
        os.close(turn)
    raise OSError(f"all {SLOTS_MAX} slots of {root} are in use: name a directory with --data-dir")


class _Slot(NamedTuple):
    """A free slot. The least is the one to take: of ours the closest in marks, of strange ones the longest left."""

    kinship: int
    order: float
    number: int


_OURS, _FRESH, _STRANGE = range(3)


def _slot_found(root: Path, number: int, marks: Marks) -> _Slot | None:
    """What is in the slot for this machine; None if another node holds it or it cannot be used."""
    directory = root / f"node-{number}"
    if not directory.exists():
        return _Slot(_FRESH, 0, number)
    try:
        if (lock := _lock(directory)) is None:
            return None
        with os.fdopen(lock):
            if (stored := _recall(directory)) is None:
                return _Slot(_FRESH, 0, number)
            if kin(stored.marks, marks) is Kin.HERE:
                return _Slot(_OURS, -_in_common(stored.marks, marks), number)
            return _Slot(_STRANGE, (directory / _NODE_FILE).stat().st_mtime, number)
    except OSError as error:
        _log.warning("%s is passed over: %s", directory, error)
        return None


def _settle(directory: Path, slot: int, marks: Marks, lock: int) -> HeldIdentity:
    """The identity that rests in a locked directory, or a new one where there is none or it is another machine's."""
    stored = _recall(directory)
    inode = directory.stat().st_ino
    if stored is None:
        identity = Identity(_new_id(), _next_boot(""), directory, slot)
    elif _is_copy(stored, marks, inode, slot):
        identity = Identity(_new_id(), _next_boot(stored.boot), directory, slot)
        _log.warning(
            "%s was made on another machine, with node id %s (a copied disk?): this node is %s from now on",
            directory,
            stored.id,
            identity.id,
        )
    else:
        identity = Identity(stored.id, _next_boot(stored.boot), directory, slot)
        # What this user may not read, or a card that is unplugged today, is still a mark of this machine.
        marks = Marks(
            serials=marks.serials or stored.marks.serials,
            cards=marks.cards or stored.marks.cards,
            virtual=marks.virtual or stored.marks.virtual,
        )
    held = HeldIdentity(identity, marks, lock)
    try:
        held.remember()
    except OSError as error:
        if stored is None or stored.id != identity.id:
            held.release()
            raise
        _log.warning("%s cannot be written (%s): the node keeps its id", directory / _NODE_FILE, error)
    return held


def _is_copy(stored: _NodeFile, mine: Marks, inode: int, slot: int) -> bool:
    match kin(stored.marks, mine):
        case Kin.HERE:
            return False
        case Kin.ELSEWHERE:
            return True
        case Kin.UNSURE:
            # A container made anew on its old volume, unless the directory is a new one too. A slot is taken in doubt
            # only when there is no other, and then whoever left it may come back.
            return slot != _NO_SLOT or stored.inode != inode


def _recall(directory: Path) -> _NodeFile | None:
    """What rests in the directory; None if nothing does, or nothing that can be used, which is set aside."""
    path = directory / _NODE_FILE
    try:
        content = read_small_file(path, NODE_FILE_BYTES_MAX)
        return None if content is None else msgspec.json.decode(content, type=_NodeFile)
    except (OSError, msgspec.DecodeError) as error:
        set_aside(path, error)
        return None


def _open_lock(directory: Path) -> int:
    return os.open(directory / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _lock(directory: Path) -> int | None:
    """The descriptor of the lock on the directory, which is made if it is not there; None if another node holds it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _open_lock(directory)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            return None
        raise
    with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    return lock


def _holder(directory: Path) -> str:
    """The process that holds the directory, as a message shows it."""
    try:
        content = read_small_file(directory / _LOCK_FILE, 32)
        return str(int(content or b""))
    except (OSError, ValueError):
        return "unknown"


def _new_id() -> str:
    return secrets.token_hex(_ID_DIGITS // 2)


def _next_boot(last: str) -> str:
    """A boot id that sorts after `last`: 48 bits of milliseconds, then 80 random ones.

    A device without a clock of its own wakes up in the past, and then counts on from its last boot.
    """
    after_last = int(last[:_BOOT_TIME_DIGITS], 16) + 1 if last else 0
    milliseconds = min(max(time.time_ns() // 1_000_000, after_last), 16**_BOOT_TIME_DIGITS - 1)
    return f"{milliseconds:0{_BOOT_TIME_DIGITS}x}{secrets.token_hex((_ID_DIGITS - _BOOT_TIME_DIGITS) // 2)}"


def _in_common(stored: Marks, mine: Marks) -> int:
    pairs = ((stored.serials, mine.serials), (stored.cards, mine.cards), (stored.virtual, mine.virtual))
    return sum(len(set(a) & set(b)) for a, b in pairs)


def _is_serial(text: str) -> bool:
    """Whether `text` can be one device's own number. Boards without one say so in many ways, or say 0 or F all over."""
    return len(text) >= 6 and text.lower() not in _NOT_SERIALS and len(set(text) - set(" -.0fF")) >= 2


def _digests(values: Iterable[str]) -> tuple[str, ...]:
    # Without the salt, anybody's table of MAC addresses would do.
    return tuple(sorted({sha256(f"edgecache {value}".encode()).hexdigest()[:16] for value in values})[:MARKS_MAX])


def _line(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip(" \t\r\n\0")
    except OSError:
        return ""


def _listed(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []
