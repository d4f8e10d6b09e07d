from __future__ import annotations

from dataclasses import replace

from edgecache.node.interfaces import InterfaceAddress
from edgecache.node.multicast import echo

LO = InterfaceAddress("lo", 1, "127.0.0.1", 8)


async def test_a_question_is_heard_on_loopback() -> None:
    assert await echo(LO) is None


async def test_where_there_is_no_such_interface_or_address_it_is_said_why() -> None:
    assert await echo(replace(LO, address="192.0.2.1")) is not None
    assert await echo(replace(LO, interface="none0")) is not None
