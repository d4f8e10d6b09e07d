"""Which addresses of this machine a node announces itself on.

A node must be found wherever it listens and must not be heard anywhere else: not from a container bridge, whose
addresses no other device can dial, and from a node that listens on loopback, on loopback alone. IPv4 only, as the
peers' own addresses are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, ip_address

import ifaddr

# Bridges and pairs that container engines and hypervisors make. Every host that runs one has the same few private
# addresses on them (172.17.0.1, 192.168.122.1), so an address announced there leads each other device to itself.
# Docker's own networks are `br-` and 12 hexadecimal digits: `br-lan` is the LAN of every OpenWrt box, and stays.
_VIRTUAL = re.compile(
    r"docker.*|br-[0-9a-f]{12}|veth.*|podman.*|cni.*|nerdctl.*|lxc.*|lxd.*|incusbr.*|virbr.*|vnet\d+"
    r"|vmnet.*|vboxnet.*|flannel.*|cali.*|cilium.*|weave.*|kube-.*|nodelocaldns|ifb\d+|dummy\d+",
    re.ASCII,
)

_EVERYWHERE = frozenset({"", "0.0.0.0", "::"})


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """One IPv4 address of this machine. `index` is the kernel's number: unplugged and plugged in again, it is new."""

    interface: str
    index: int
    address: str
    prefix_bits: int

    @property
    def is_loopback(self) -> bool:
        return IPv4Address(self.address).is_loopback

    @property
    def network(self) -> IPv4Network:
        """The addresses that are reached through this interface without a router."""
        return IPv4Interface(f"{self.address}/{self.prefix_bits}").network


def is_virtual(interface: str) -> bool:
    """Whether an interface of this name belongs to a container engine or a hypervisor, and leads to no other device."""
    return _VIRTUAL.fullmatch(interface) is not None


def announced(listen_host: str, present: Iterable[InterfaceAddress]) -> list[InterfaceAddress]:
    """The addresses of `present` that a node listening on `listen_host` announces, in the order of `present`.

    A node on 0.0.0.0 announces on loopback too: it listens there, and that is where a node or a client that keeps to
    loopback on the same machine looks for it. Virtual interfaces are skipped unless there are no others: inside a
    container the virtual one is the LAN. Empty when no interface has the address (yet), or when it is IPv6.
    """
    present = list(present)
    if listen_host in _EVERYWHERE:
        only_virtual = all(a.is_loopback or is_virtual(a.interface) for a in present)
        return [a for a in present if only_virtual or not is_virtual(a.interface)]
    address = "127.0.0.1" if listen_host == "localhost" else listen_host
    if is_loopback(address) and ":" not in address:
        # All of 127.0.0.0/8 is this machine, though the kernel lists 127.0.0.1 only.
        loopback = [a for a in present if a.is_loopback]
        return [InterfaceAddress(a.interface, a.index, address, a.prefix_bits) for a in loopback[:1]]
    return [a for a in present if a.address == address]


def present_addresses() -> list[InterfaceAddress]:
    """Every IPv4 address that this machine has now, in the kernel's order. Takes 0.3 ms."""
    return [  # an address may have a label of its own: eth0:1 is on eth0
        InterfaceAddress(adapter.nice_name.partition(":")[0], adapter.index or 0, ip.ip, ip.network_prefix)
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
        if isinstance(ip.ip, str)  # IPv6 comes as a tuple
    ]


@lru_cache(maxsize=1024)  # asked of every member whenever it is told of, and parsing takes 8 µs
@lru_cache(1024)  # asked of every member each time that all are told of
def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`, an address or a name."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
