"""node/memory_readings.py: the kernel's files, as they are on several systems."""

from __future__ import annotations

from pathlib import Path

from edgecache.node.memory_readings import MemoryReadings
from edgecache.node.pressure import Bound, Reading

MIB = 1 << 20
MEMINFO = "MemTotal:        4096000 kB\nMemFree:          100000 kB\nMemAvailable:    3072000 kB\n"
MACHINE = Bound(4096000 * 1024, 1024000 * 1024)


def system(root: Path, files: dict[str, str]) -> MemoryReadings:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return MemoryReadings(root)


def cgroup(directory: str, **files: object) -> dict[str, str]:
    return {f"sys/fs/cgroup/{directory}/{name.replace('__', '.')}": f"{text}\n" for name, text in files.items()}


def test_the_machine_alone(tmp_path: Path) -> None:
    assert system(tmp_path, {"proc/meminfo": MEMINFO}).read() == Reading([MACHINE])


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    readings = system(tmp_path, {})
    assert readings.read() == Reading([])
    assert readings.limit_bytes is None


def test_cgroups_of_version_2_and_those_that_they_are_in(tmp_path: Path) -> None:
    readings = system(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/system.slice/edgecache.service\n",
            "proc/pressure/memory": "some avg10=50.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=9.00 avg60=0.00\n",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
            **cgroup("system.slice", memory__max=3000 * MIB, memory__high="max", memory__current=100 * MIB),
            **cgroup(
                "system.slice/edgecache.service",
                memory__max=512 * MIB,
                memory__high=400 * MIB,
                memory__current=300 * MIB,
                memory__stat=f"anon {90 * MIB}\nactive_file {60 * MIB}\ninactive_file {40 * MIB}\n"
                f"file_dirty {8 * MIB}\nfile_writeback {2 * MIB}\nslab_reclaimable {5 * MIB}",
                memory__pressure="some avg10=12.50 avg60=3.00 avg300=0.00 total=123\nfull avg10=0.00",
            ),
        },
    )
    own = Bound(400 * MIB, 300 * MIB - (105 - 10) * MIB)
    assert readings.read() == Reading([MACHINE, own, Bound(3000 * MIB, 100 * MIB)], 0.125)
    assert readings.limit_bytes == 400 * MIB


def test_a_container_sees_its_own_cgroup_as_the_root(tmp_path: Path) -> None:
    readings = system(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cgroup.controllers": "memory\n",
            **cgroup(".", memory__max=256 * MIB, memory__current=64 * MIB),
        },
    )
    assert readings.read() == Reading([Bound(256 * MIB, 64 * MIB)])


def test_cgroups_without_a_limit_bind_nobody(tmp_path: Path) -> None:
    readings = system(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a\n",
            "sys/fs/cgroup/cgroup.controllers": "memory\n",
            **cgroup("a", memory__max="max", memory__high="max", memory__current=64 * MIB),
        },
    )
    assert readings.read() == Reading([])


def test_cgroups_of_version_1(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n",
        **cgroup(
            "memory",
            memory__limit_in_bytes=512 * MIB,
            memory__usage_in_bytes=300 * MIB,
            memory__stat=f"cache 7\nactive_file 9\ntotal_active_file {60 * MIB}\ntotal_inactive_file {40 * MIB}\n"
            f"total_dirty {8 * MIB}\ntotal_writeback {2 * MIB}",
        ),
    }
    assert system(tmp_path, files).read() == Reading([Bound(512 * MIB, 210 * MIB)])


def test_version_1_spells_no_limit_as_a_number(tmp_path: Path) -> None:
    files = cgroup("memory", memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=5)
    assert system(tmp_path, {"proc/self/cgroup": "4:memory:/\n", **files}).read() == Reading([])


def test_what_is_no_number_is_nothing(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemTotal: lots\n\nMemAvailable\n",
        "proc/self/cgroup": "nonsense\n::\n",
        "proc/pressure/memory": "some avg10=never\n",
    }
    assert system(tmp_path, files).read() == Reading([])


def test_this_machine_can_be_read() -> None:
    readings = MemoryReadings()
    for bound in readings.read().bounds:
        assert 0 < bound.used_bytes < bound.limit_bytes
    assert readings.limit_bytes is None or readings.limit_bytes > 16 * MIB
