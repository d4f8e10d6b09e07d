from __future__ import annotations

import errno
import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from edgecache.node import identity as identity_module
from edgecache.node.identity import SLOTS_MAX, HeldIdentity, Identity, Kin, Marks, claim, kin, machine_marks
from edgecache.node.process import default_data_root
from edgecache.protocol.errors import InvalidValue

BOARD = Marks(serials=("board",), cards=("eth", "wifi"), virtual=("bridge",))
OTHER_BOARD = Marks(serials=("other board",), cards=("other eth",))
SPACE = Marks(virtual=("veth",))
OTHER_SPACE = Marks(virtual=("other veth",))


def lived(root: Path, marks: Marks, data_dir: Path | None = None) -> Identity:
    """The identity of a node that started and stopped."""
    held = claim(data_dir, root, marks)
    held.release()
    return held.identity


@pytest.mark.parametrize(
    ("stored", "mine", "answer"),
    [
        (BOARD, BOARD, Kin.HERE),
        (BOARD, OTHER_BOARD, Kin.ELSEWHERE),
        (BOARD, Marks(serials=("board",), cards=("dongle", "wifi")), Kin.HERE),
        (BOARD, Marks(serials=("board",)), Kin.HERE),  # both cards unplugged
        (BOARD, Marks(cards=("eth",)), Kin.HERE),  # a user who may not read the serial
        (BOARD, Marks(serials=("board",), cards=("other eth",)), Kin.ELSEWHERE),  # a serial that a series shares
        (BOARD, Marks(serials=("other board",), cards=("eth",)), Kin.ELSEWHERE),  # a USB card that was carried over
        (BOARD, SPACE, Kin.UNSURE),
        (SPACE, SPACE, Kin.HERE),
        (SPACE, OTHER_SPACE, Kin.UNSURE),
        (Marks(), BOARD, Kin.HERE),
        (BOARD, Marks(), Kin.HERE),
    ],
)
def test_kin_is_what_all_known_hardware_agrees_on(stored: Marks, mine: Marks, answer: Kin) -> None:
    assert kin(stored, mine) is answer


def test_an_id_outlives_a_restart_and_a_boot_does_not(tmp_path: Path) -> None:
    first, second = lived(tmp_path, BOARD), lived(tmp_path, BOARD)
    assert first.id == second.id
    assert first.slot == second.slot == 1
    assert first.data_dir == second.data_dir == tmp_path / "node-1"
    assert first.boot < second.boot


def test_boots_go_on_when_the_clock_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = lived(tmp_path, BOARD)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    second = lived(tmp_path, BOARD)
    assert first.boot < second.boot < lived(tmp_path, BOARD).boot


def test_nodes_on_one_machine_take_the_next_free_slot_and_get_it_again(tmp_path: Path) -> None:
    running = [claim(None, tmp_path, BOARD) for _ in range(3)]
    assert [held.identity.slot for held in running] == [1, 2, 3]
    running[1].release()
    again = claim(None, tmp_path, BOARD)
    assert again.identity.id == running[1].identity.id
    for held in (*running, again):
        held.release()


def test_a_named_directory_is_held_by_one_node(tmp_path: Path) -> None:
    held = claim(tmp_path / "mine", tmp_path, BOARD)
    with pytest.raises(InvalidValue, match=f"{tmp_path}/mine is in use by process {os.getpid()}$"):
        claim(tmp_path / "mine", tmp_path, BOARD)
    held.release()
    held.release()
    assert lived(tmp_path, BOARD, tmp_path / "mine") == Identity(
        held.identity.id, json.loads((tmp_path / "mine/node.json").read_text())["boot"], tmp_path / "mine", 0
    )


_NODE = """
import sys
from pathlib import Path
from edgecache.node.identity import claim
held = claim(Path(sys.argv[1]), Path(sys.argv[1]))
print(held.identity.id, flush=True)
sys.stdin.read()
"""


def test_a_killed_node_lets_go_of_its_directory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _NODE, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        node_id = node.stdout.readline().strip()
        with pytest.raises(InvalidValue, match=f"process {node.pid}$"):
            claim(tmp_path, tmp_path)
        node.kill()
    held = claim(tmp_path, tmp_path)
    held.release()
    assert held.identity.id == node_id


@pytest.mark.parametrize("named", [True, False])
def test_a_cloned_disk_gets_an_id_of_its_own_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, named: bool
) -> None:
    data_dir = tmp_path / "mine" if named else None
    original = lived(tmp_path, BOARD, data_dir)
    caplog.clear()
    clone = lived(tmp_path, OTHER_BOARD, data_dir)
    assert clone.id != original.id
    assert "another machine" in caplog.text
    assert lived(tmp_path, OTHER_BOARD, data_dir).id == clone.id


def test_in_a_root_that_machines_share_each_finds_its_own_slot(tmp_path: Path) -> None:
    spaces = [Marks(virtual=(f"veth{number}",)) for number in range(5)]
    first = {marks: lived(tmp_path, marks).id for marks in spaces}
    assert len(set(first.values())) == 5
    assert {marks: lived(tmp_path, marks).id for marks in reversed(spaces)} == first


def test_of_several_slots_made_here_the_closest_in_marks_is_taken(tmp_path: Path) -> None:
    # Network namespaces on one board: the board's serial is seen by all.
    spaces = [Marks(serials=("board",), virtual=(f"veth{number}",)) for number in range(3)]
    running = [claim(None, tmp_path, marks) for marks in spaces]
    for held in running:
        held.release()
    ids = [held.identity.id for held in running]
    assert [lived(tmp_path, marks).id for marks in reversed(spaces)] == list(reversed(ids))


def test_when_no_slot_is_fresh_the_one_left_longest_ago_gets_a_new_id(tmp_path: Path) -> None:
    strangers = [lived(tmp_path, Marks(virtual=(f"veth{number}",))) for number in range(SLOTS_MAX)]
    os.utime(tmp_path / "node-7/node.json", (1, 1))
    late = lived(tmp_path, OTHER_SPACE)
    assert late.slot == 7
    assert late.id not in [stranger.id for stranger in strangers]


def test_a_container_made_anew_on_its_volume_keeps_its_id(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    assert lived(tmp_path, SPACE, volume).id == lived(tmp_path, OTHER_SPACE, volume).id


def test_a_copied_directory_in_another_container_is_told_apart(tmp_path: Path) -> None:
    original = lived(tmp_path, SPACE, tmp_path / "volume")
    shutil.copytree(tmp_path / "volume", tmp_path / "copy")
    assert lived(tmp_path, OTHER_SPACE, tmp_path / "copy").id != original.id


def test_marks_that_cannot_be_read_today_are_kept(tmp_path: Path) -> None:
    original = lived(tmp_path, BOARD)
    assert lived(tmp_path, Marks(cards=("eth",))).id == original.id
    assert lived(tmp_path, Marks(serials=("other board",), cards=("eth",))).id != original.id


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff", b'{"id": "../../etc", "boot": "0", "marks": {}, "inode": 1}', b"x" * 70_000]
)
def test_a_file_that_cannot_be_used_is_set_aside_for_a_new_id(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "node.json").write_bytes(content)
    fresh = lived(tmp_path, BOARD, tmp_path)
    assert (tmp_path / "node.json.corrupt").read_bytes() == content
    assert lived(tmp_path, BOARD, tmp_path).id == fresh.id


def test_a_symlink_in_the_data_directory_is_not_followed(tmp_path: Path) -> None:
    lived(tmp_path, BOARD, tmp_path / "victim")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/node.json").symlink_to(tmp_path / "victim/node.json")
    assert lived(tmp_path, BOARD, tmp_path / "mine").id != lived(tmp_path, BOARD, tmp_path / "victim").id


def test_a_user_without_a_home_is_told_what_to_say_and_has_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a container runs a process: by the number of a user that it does not know."""

    def nobody(uid: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert default_data_root({}) is default_data_root({"XDG_DATA_HOME": "relative"}) is None
    assert default_data_root({"XDG_DATA_HOME": "/data"}) == Path("/data/edgecache")
    held = claim(None, default_data_root({}), BOARD)
    assert held.identity.data_dir is None
    assert "degraded: no data directory (this user has no home directory: say --data-dir DIR)" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_made_gives_a_temporary_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    held = claim(tmp_path / "file/below", tmp_path, BOARD)
    assert held.identity.data_dir is None
    assert "temporary" in caplog.text
    assert held.renew().data_dir is None
    held.release()


def test_a_full_disk_keeps_an_id_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = lived(tmp_path, BOARD, tmp_path)

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(identity_module, "replace_small_file", full)
    assert lived(tmp_path, BOARD, tmp_path).id == original.id
    assert lived(tmp_path, BOARD, tmp_path / "new").data_dir is None


def test_a_slot_that_cannot_be_used_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "node-1").touch()
    assert lived(tmp_path, BOARD).slot == 2


def test_a_new_id_after_a_conflict_is_for_good(tmp_path: Path) -> None:
    held: HeldIdentity = claim(None, tmp_path, BOARD)
    before = held.identity
    after = held.renew()
    held.release()
    assert after.id != before.id
    assert after.boot > before.boot
    assert lived(tmp_path, BOARD).id == after.id


def test_marks_are_read_from_what_the_kernel_shows(tmp_path: Path) -> None:
    def put(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    def card(name: str, address: str, kind: str, *, real: bool) -> None:
        put(f"class/net/{name}/address", f"{address}\n")
        put(f"class/net/{name}/type", "1\n" if name != "lo" else "772\n")
        put(f"class/net/{name}/addr_assign_type", f"{kind}\n")
        if real:
            put(f"class/net/{name}/device/uevent", "")

    card("lo", "00:00:00:00:00:00", "0", real=False)
    card("eth0", "b8:27:eb:00:00:01", "0", real=True)
    card("wlan0", "da:a1:19:00:00:02", "3", real=True)  # randomised by NetworkManager
    card("docker0", "02:42:00:00:00:03", "3", real=False)
    card("veth9", "02:42:00:00:00:04", "1", real=False)
    card("br0", "02:42:00:00:00:05", "3", real=False)
    put("tree/serial-number", "10000000abcdef01\0")
    put("class/dmi/id/product_serial", "To Be Filled By O.E.M.\n")
    put("class/dmi/id/product_uuid", "00000000-0000-0000-0000-000000000000\n")
    marks = machine_marks(tmp_path, tmp_path / "tree")
    assert (len(marks.serials), len(marks.cards), len(marks.virtual)) == (1, 1, 1)
    assert machine_marks(tmp_path / "none", tmp_path / "none") == Marks()
    assert "b8:27:eb" not in str(marks)
