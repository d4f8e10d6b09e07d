"""The commands of `edgecache`: each asks a client, prints, and returns the exit status."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..protocol.errors import InvalidValue
from ..protocol.keys import digest_of, format_digest, parse_digest
from . import client_top
from .client_nodes import NoNodeAnswers, Refused
from .client_show import checks_lines, features_line, features_told, peers_lines, status_lines
from .cluster_key import new_key, read_keys, retire, rotate
from .http_tensors import Tensor, npy_array, npy_head, safetensors_head
from .logs import escaped

if TYPE_CHECKING:
    from ..protocol.features import Features
    from .client import Client

# As many as a node encodes in one batch.
IMAGES_AT_ONCE = 8

TOP_INTERVAL_MIN_S, TOP_INTERVAL_MAX_S = 0.1, 3600.0

DONE, NOT_FOUND, WRONG_USAGE, NO_NODE = range(4)

_Item = TypeVar("_Item")
_T = TypeVar("_T")


# -- images -----------------------------------------------------------------------------------------------------


async def put(cache: Client, arguments: argparse.Namespace) -> int:
    """`edgecache put`: have images encoded and kept."""
    if arguments.features is not None:
        return await _put_features(cache, arguments)
    return await _each_image(cache, arguments, save=None)


async def encode(cache: Client, arguments: argparse.Namespace) -> int:
    """`edgecache encode`: the features of images, as npy files."""
    if arguments.output == "-":
        if len(arguments.images) > 1:
            raise InvalidValue("-o -: standard output takes the features of one image")
        found = await cache.encode(Path(arguments.images[0]))
        _write("-", [npy_head(found.array.shape), _values(found)])
        return DONE
    return await _each_image(cache, arguments, save=_targets(arguments.images, Path(arguments.output)))


async def _each_image(cache: Client, arguments: argparse.Namespace, save: dict[str, Path] | None) -> int:
    """Encode every image, some at once, and tell of them in their order; the exit status."""

    async def encode(image: str) -> tuple[str, Features | Refused, float]:
        started = time.perf_counter()
        try:
            found: Features | Refused = await cache.encode(Path(image))
        except Refused as refusal:  # of this image; the others may be better
            found = refusal
        return image, found, (time.perf_counter() - started) * 1000

    images = list(dict.fromkeys(arguments.images))
    _check_readable(images)
    status, results = DONE, []
    async for image, found, ms in _in_order(encode, images):
        if isinstance(found, Refused):
            status = fail(NOT_FOUND, f"{image}: {found}")
            results.append({"image": image, "found": False, "status": found.status, "detail": found.detail})
            continue
        told = {"image": image, **features_told(found), "ms": round(ms, 3)}
        if save is not None:
            _write(str(save[image]), [npy_head(found.array.shape), _values(found)])
            told["file"] = str(save[image])
        results.append(told)
        if not arguments.json:
            print(features_line(found, image, ms), flush=True)
    if arguments.json:
        print(json.dumps(results))
    return status


async def _in_order(work: Callable[[_Item], Awaitable[_T]], items: Iterable[_Item]) -> AsyncIterator[_T]:
    """What `work` makes of each of `items`, in their order, with up to IMAGES_AT_ONCE under way."""
    under_way: list[asyncio.Future[_T]] = []
    try:
        for item in items:
            if len(under_way) == IMAGES_AT_ONCE:
                yield await under_way.pop(0)
            under_way.append(asyncio.ensure_future(work(item)))
        while under_way:
            yield await under_way.pop(0)
    finally:
        for future in under_way:
            future.cancel()


async def _put_features(cache: Client, arguments: argparse.Namespace) -> int:
    if len(arguments.images) != 1:
        raise InvalidValue("--features: expected one IMAGE or DIGEST that they are of")
    try:
        digest = parse_digest(arguments.images[0])
    except InvalidValue:
        digest = digest_of(_read(arguments.images[0]))
    copies = await cache.put(digest, npy_array(_read(arguments.features)))
    told = {"digest": format_digest(digest), "copies": copies}
    print(json.dumps(told) if arguments.json else f"{told['digest']}  kept on {copies} node(s)")
    return DONE


# -- digests ----------------------------------------------------------------------------------------------------


async def get(cache: Client, arguments: argparse.Namespace) -> int:
    """`edgecache get`: the features of images by their digests."""
    digests = {name: parse_digest(name) for name in arguments.digests}
    if len(digests) == 1:
        (name,) = digests
        alone = await cache.get(name)
        found = {} if alone is None else {name: alone}
    else:
        found = await cache.get_many(list(digests))
    for name in digests:
        if name not in found:
            fail(NOT_FOUND, f"{name}: nobody holds its features")
    if arguments.output is not None and found:
        _save(arguments.output, found, is_npy=len(digests) == 1 and not arguments.output.endswith(".safetensors"))
    if arguments.json and arguments.output != "-":
        told = {name: features_told(found[name]) if name in found else {"found": False} for name in digests}
        print(json.dumps([{"asked": name, **what} for name, what in told.items()]))
    elif arguments.output != "-":
        for name in found:
            print(features_line(found[name], arguments.output or "", None))
    return DONE if len(found) == len(digests) else NOT_FOUND


async def has(cache: Client, arguments: argparse.Namespace) -> int:
    """`edgecache has`: whether somebody holds them."""
    digests = {name: parse_digest(name) for name in arguments.digests}
    held = {name: await cache.has(digest) for name, digest in digests.items()}
    if arguments.json:
        print(json.dumps([{"asked": name, "found": is_held} for name, is_held in held.items()]))
    else:
        for name, is_held in held.items():
            print(f"{name}  {'yes' if is_held else 'no'}")
    return DONE if all(held.values()) else NOT_FOUND


async def rm(cache: Client, arguments: argparse.Namespace) -> int:
    """`edgecache rm`: forget them."""
    digests = {name: parse_digest(name) for name in arguments.digests}
    encoder, version = arguments.encoder, arguments.version
    gone = {name: await cache.forget(digest, encoder=encoder, version=version) for name, digest in digests.items()}
    if arguments.json:
        print(json.dumps([{"asked": name, "forgotten": is_gone} for name, is_gone in gone.items()]))
    for name, is_gone in gone.items():
        if not is_gone:
            fail(NOT_FOUND, f"{name}: nobody held its features")
        elif not arguments.json:
            print(f"{name}  forgotten")
    return DONE if all(gone.values()) else NOT_FOUND


async def invalidate(cache: Client, arguments: argparse.Namespace) -> int:
    """`edgecache invalidate`: make a version current."""
    forgotten = await cache.invalidate(arguments.encoder, arguments.version)
    if arguments.json:
        print(json.dumps({"encoder": arguments.encoder, "version": arguments.version, "forgotten": forgotten}))
    else:
        print(f"{arguments.encoder}: {forgotten} older feature(s) gone from this node, and the others told")
    return DONE


# -- the cluster ------------------------------------------------------------------------------------------------


async def status(cache: Client, arguments: argparse.Namespace) -> int:
    """`edgecache status`: the node and its counters."""
    cluster, stats = await cache.cluster(), await cache.stats()
    lines = [json.dumps({"cluster": cluster, "stats": stats})] if arguments.json else status_lines(cluster, stats)
    print("\n".join(lines))
    return DONE


async def peers(cache: Client, arguments: argparse.Namespace) -> int:
    """`edgecache peers`: the members."""
    cluster = await cache.cluster()
    print(json.dumps(cluster["members"]) if arguments.json else "\n".join(peers_lines(cluster)))
    return DONE


async def top(cache: Client, arguments: argparse.Namespace) -> int:
    """`edgecache top`: what every member does; once, or, on a terminal, until Ctrl-C."""
    interval_s = arguments.interval
    if not TOP_INTERVAL_MIN_S <= interval_s <= TOP_INTERVAL_MAX_S:
        raise InvalidValue(f"interval {interval_s}: expected {TOP_INTERVAL_MIN_S} to {TOP_INTERVAL_MAX_S:g} seconds")
    before = await _reading(cache)
    if arguments.json or not sys.stdout.isatty():
        await asyncio.sleep(interval_s)
        told = client_top.members(before, await _reading(cache))
        print(json.dumps(told) if arguments.json else "\n".join(client_top.lines(told)))
        return DONE
    try:
        await _top_until_interrupted(cache, before, interval_s)
    except asyncio.CancelledError:  # Ctrl-C is how one leaves it
        print()
    return DONE


async def _top_until_interrupted(cache: Client, before: client_top.Reading, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        size = shutil.get_terminal_size()
        try:
            now = await _reading(cache)
            lines = client_top.lines(client_top.members(before, now))
            before = now
        except NoNodeAnswers as error:  # it may come back
            lines = [escaped(str(error))]
        node = before.cluster["node"]
        title = escaped(f"cluster {node.get('cluster', '?')}, asked of {node['name']}, {time.strftime('%H:%M:%S')}")
        shown = [title, "", *lines][: size.lines - 1]
        # Home, each line cut to the screen and its rest cleared, and then everything below: nothing flickers.
        sys.stdout.write("\x1b[H" + "".join(f"{line[: size.columns]}\x1b[K\n" for line in shown) + "\x1b[J")
        sys.stdout.flush()


async def _reading(cache: Client) -> client_top.Reading:
    cluster, urls = await cache.members()
    stats = await cache.stats_of(set(urls.values()))
    return client_top.Reading(time.monotonic(), cluster, {member: stats.get(url) for member, url in urls.items()})


async def bench(cache: Client, arguments: argparse.Namespace) -> int:
    """`edgecache bench`: how long the node takes."""
    from .client_bench import bench as measure

    times = await measure(cache, arguments.elsewhere, arguments.count)
    print(json.dumps(times.told()) if arguments.json else "\n".join(times.lines()))
    return DONE


async def doctor(cache: Client, arguments: argparse.Namespace) -> int:
    """`edgecache doctor`: what is wrong with the network."""
    from .doctor import ask_cluster, examine  # brings zeroconf, which the other commands need not

    key_file = arguments.cluster_key
    tokens = [key.token for key in read_keys(Path(key_file))] if key_file is not None else []
    checks = await examine(arguments.url, tokens)
    print("\n".join(checks_lines(checks, as_json=arguments.json)))
    if all(check.ok is not False for check in checks):
        return DONE
    return NO_NODE if isinstance(await ask_cluster(arguments.url, tokens), str) else NOT_FOUND


# -- keys -------------------------------------------------------------------------------------------------------


def key_new(arguments: argparse.Namespace) -> int:
    """`edgecache key new`: a key for a cluster."""
    new_key(Path(arguments.file))
    if arguments.json:
        print(json.dumps({"file": arguments.file}))
    else:
        print(f"{arguments.file}: a new cluster key. Copy it to every device (scp -p) and start each node with")
        print(f"edgecache-node --cluster-key {arguments.file} --listen 0.0.0.0:7440")
    return DONE


def key_rotate(arguments: argparse.Namespace) -> int:
    """`edgecache key rotate`: begin to change the key of a running cluster."""
    rotate(Path(arguments.file))
    if arguments.json:
        print(json.dumps({"file": arguments.file}))
    else:
        print(f"{arguments.file}: has a new key, and takes the former one too. Copy it to every device (scp -p) and")
        print(f"restart the nodes one after another; then edgecache key retire {arguments.file}, and the same again.")
    return DONE


def key_retire(arguments: argparse.Namespace) -> int:
    """`edgecache key retire`: end the change of a key."""
    retire(Path(arguments.file))
    if arguments.json:
        print(json.dumps({"file": arguments.file}))
    else:
        print(f"{arguments.file}: the former key is gone from it. Copy it to every device (scp -p) and restart")
        print("the nodes one after another: from then on the former key opens nothing.")
    return DONE


def key_token(arguments: argparse.Namespace) -> int:
    """`edgecache key token`: what to put behind `Authorization: Bearer`."""
    token = read_keys(Path(arguments.file))[0].token
    print(json.dumps({"token": token}) if arguments.json else token)
    return DONE


# -- files ------------------------------------------------------------------------------------------------------


def _check_readable(images: Iterable[str]) -> None:
    """OSError for a file that cannot be read: said before anything is encoded."""
    for image in images:
        with open(image, "rb"):
            pass


def _targets(images: Iterable[str], directory: Path) -> dict[str, Path]:
    """Where the features of each image go; InvalidValue when two would go to one file. Makes the directory."""
    images_of: dict[Path, str] = {}
    for image in images:
        target = directory / f"{Path(image).stem}.npy"
        if images_of.setdefault(target, image) != image:
            raise InvalidValue(f"{images_of[target]} and {image} would both be written to {target}")
    directory.mkdir(parents=True, exist_ok=True)
    return {image: target for target, image in images_of.items()}


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


def _save(output: str, found: dict[str, Features], *, is_npy: bool) -> None:
    if is_npy:
        (features,) = found.values()
        _write(output, [npy_head(features.array.shape), _values(features)])
        return
    tensors = {name: Tensor("F32", features.array.shape, features.array.nbytes) for name, features in found.items()}
    _write(output, [safetensors_head(tensors, {}), *map(_values, found.values())])


def _values(features: Features) -> bytes:
    return features.array.astype("<f4", copy=False).tobytes()


def _write(output: str, parts: list[bytes]) -> None:
    if output == "-":
        for part in parts:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
    else:
        Path(output).write_bytes(b"".join(parts))


def fail(status: int, message: str) -> int:
    """One line on standard error; `status`."""
    print(f"edgecache: {escaped(message)}", file=sys.stderr)
    return status
