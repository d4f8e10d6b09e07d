from __future__ import annotations

import pytest
from edgecache.node.interfaces import InterfaceAddress, announced, is_virtual, present_addresses

LO = InterfaceAddress("lo", 1, "127.0.0.1", 8)
ETH = InterfaceAddress("eth0", 2, "192.168.1.20", 24)
WIFI = InterfaceAddress("wlan0", 3, "192.168.1.21", 24)
DOCKER = InterfaceAddress("docker0", 4, "172.17.0.1", 16)
HOST = [LO, ETH, WIFI, DOCKER]


def test_a_loopback_node_is_announced_on_loopback_alone() -> None:
    assert announced("127.0.0.1", HOST) == [LO]
    assert announced("localhost", HOST) == [LO]


def test_all_of_127_is_loopback() -> None:
    assert announced("127.0.0.9", HOST) == [InterfaceAddress("lo", 1, "127.0.0.9", 8)]


def test_an_address_is_announced_on_the_interface_that_has_it() -> None:
    assert announced("192.168.1.21", HOST) == [WIFI]


def test_an_address_that_no_interface_has_is_announced_nowhere() -> None:
    assert announced("192.168.1.99", HOST) == []


@pytest.mark.parametrize("host", ["::1", "fe80::1", "camera.example", "not an address"])
def test_what_is_no_ipv4_address_is_announced_nowhere(host: str) -> None:
    assert announced(host, HOST) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_a_node_that_listens_everywhere_is_announced_on_real_interfaces_and_loopback(host: str) -> None:
    assert announced(host, HOST) == [LO, ETH, WIFI]


def test_a_device_that_has_only_a_virtual_interface_is_found_there() -> None:
    assert announced("0.0.0.0", [LO, DOCKER]) == [LO, DOCKER]


def test_before_the_network_is_up_there_is_loopback() -> None:
    assert announced("0.0.0.0", [LO]) == [LO]


@pytest.mark.parametrize(
    "name", ["docker0", "br-0123456789ab", "veth1a2b3c4", "virbr0", "cni0", "flannel.1", "lxcbr0", "vmnet8", "podman0"]
)
def test_what_container_engines_and_hypervisors_make_is_virtual(name: str) -> None:
    assert is_virtual(name)


@pytest.mark.parametrize("name", ["eth0", "enp3s0", "wlan0", "br0", "br-lan", "bond0", "usb0", "lo", "end0"])
def test_what_leads_to_other_devices_is_not_virtual(name: str) -> None:
    assert not is_virtual(name)


def test_this_machine_has_loopback() -> None:
    assert "127.0.0.1" in [a.address for a in present_addresses() if a.is_loopback]
