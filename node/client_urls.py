"""Where a client finds nodes: which urls lead to one, and which of those that a node tells lead there from here."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import msgspec
from yarl import URL

from ..protocol.errors import InvalidValue


class _Member(msgspec.Struct):
    id: str = ""
    http: str = ""
    state: str = ""


class _Cluster(msgspec.Struct):
    members: list[_Member]


def urls_of(cluster: Any, heard_from: str) -> list[str]:
    """Where the living members answer HTTP, as `urls_of_members` has them."""
    return [url for _, url in urls_of_members(cluster, heard_from)]


def urls_of_members(cluster: Any, heard_from: str) -> list[tuple[str, str]]:
    """Ids of the living members, and where they answer HTTP. A loopback address of another machine is no use here.

    Who asks by https asks nobody by http: what it sends is not for everybody on the network to read.
    """
    try:
        members = msgspec.convert(cluster, _Cluster).members
    except msgspec.ValidationError:
        return []
    urls = []
    for member in members:
        if member.state not in ("alive", "suspect"):
            continue
        try:
            url = checked(member.http if "://" in member.http else f"http://{member.http}")
        except InvalidValue:
            continue
        if URL(heard_from).scheme == "https" and URL(url).scheme == "http":
            continue
        if _is_loopback(heard_from) or not _is_loopback(url):
            urls.append((member.id, url))
    return urls


def checked(url: str) -> str:
    """`url` as http://HOST:PORT; InvalidValue when it is not of that kind."""
    try:
        parsed = URL(url)
    except ValueError:
        parsed = URL()
    if parsed.user is not None or parsed.password is not None:
        raise InvalidValue("url with a user or a password in it: a node knows neither, but a token")  # not shown
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.path not in ("", "/") or parsed.query:
        raise InvalidValue(f"url {url[:80]!a}: expected http://HOST:PORT")
    return str(parsed.origin())


def _is_loopback(url: str) -> bool:
    host = URL(url).host or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
