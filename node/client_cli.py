"""`edgecache`: the cluster from a command line.

`key` makes keys and needs no node. Exit status: 0 done, 1 not found or refused, 2 wrong usage, 3 no node answers.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from ..protocol.errors import EdgeCacheError, InvalidValue
from . import client_commands as commands
from .client import TIMEOUT_S, Client
from .client_commands import NO_NODE, NOT_FOUND, WRONG_USAGE, fail
from .client_nodes import DEFAULT_URL, NoNodeAnswers
from .http_tensors import NotATensor
from .standard_streams import let_go_of_stdout
from .usage import OneLineParser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. SystemExit(2) for wrong usage, as argparse has it."""
    try:
        arguments = _parser().parse_args(argv)
        if arguments.is_local:
            status: int = arguments.run(arguments)
        else:
            status = asyncio.run(_run(arguments, _namespace(arguments.namespace)))
        sys.stdout.flush()
        return status
    except NoNodeAnswers as error:
        return fail(NO_NODE, str(error))
    except (InvalidValue, NotATensor) as error:
        return fail(WRONG_USAGE, str(error))
    except EdgeCacheError as error:
        return fail(NOT_FOUND, str(error))
    except BrokenPipeError:  # `edgecache peers | head -1`
        let_go_of_stdout()
        return NOT_FOUND
    except OSError as error:
        return fail(WRONG_USAGE, f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return 130


def _everywhere() -> OneLineParser:
    """What every command takes. It may stand before the command too, so here it has no defaults to overwrite that."""
    everywhere = OneLineParser(add_help=False, argument_default=argparse.SUPPRESS)
    everywhere.add_argument("--url", help=f"the node to ask (EDGECACHE_URL, or {DEFAULT_URL})")
    everywhere.add_argument(
        "--cluster-key", metavar="FILE", help="the key of a node on another machine (EDGECACHE_CLUSTER_KEY)"
    )
    everywhere.add_argument(
        "--namespace",
        metavar="FILE",
        help="with a secret, which whoever is to find the features needs as well (EDGECACHE_NAMESPACE)",
    )
    everywhere.add_argument("--json", action="store_true", help="print JSON")
    everywhere.add_argument("--timeout", type=float, metavar="SECONDS", help=f"for each answer ({TIMEOUT_S:g})")
    return everywhere


def _parser() -> argparse.ArgumentParser:
    whose = OneLineParser(add_help=False)
    whose.add_argument("--encoder", metavar="NAME", help="whose features (default: the node's own)")
    whose.add_argument("--version", metavar="V", help="of which version (default: the current one)")

    about = "The features of images, from the nearest device that has them."
    parser = OneLineParser(prog="edgecache", description=about, parents=[_everywhere()])
    parser.set_defaults(
        url=os.environ.get("EDGECACHE_URL") or DEFAULT_URL,
        cluster_key=os.environ.get("EDGECACHE_CLUSTER_KEY") or None,
        namespace=os.environ.get("EDGECACHE_NAMESPACE") or None,
        json=False,
        timeout=TIMEOUT_S,
        is_local=False,
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[..., Awaitable[int]], about: str, *parents: OneLineParser) -> OneLineParser:
        made = subparsers.add_parser(name, help=about, description=about, parents=[_everywhere(), *parents])
        made.set_defaults(run=run)
        return made

    put = command("put", commands.put, "have images encoded and kept, and print their digests", whose)
    put.add_argument("images", nargs="+", metavar="IMAGE")
    put.add_argument("--features", metavar="FILE.npy", help="keep these features of the one IMAGE (a file or a DIGEST)")
    encode = command("encode", commands.encode, "get the features of images, encoded where nobody has them", whose)
    encode.add_argument("images", nargs="+", metavar="IMAGE")
    encode.add_argument("-o", dest="output", default=".", metavar="DIR", help="write DIR/NAME.npy (default: here)")
    get = command("get", commands.get, "get the features of images by their digests, and say what they are", whose)
    get.add_argument("digests", nargs="+", metavar="DIGEST")
    get.add_argument(
        "-o",
        dest="output",
        metavar="FILE",
        help="write them, - for standard output: one DIGEST as npy, several or *.safetensors as safetensors",
    )
    has = command("has", commands.has, "say whether somebody holds them", whose)
    has.add_argument("digests", nargs="+", metavar="DIGEST")
    rm = command("rm", commands.rm, "forget them on every node; without --encoder, those of every encoder", whose)
    rm.add_argument("digests", nargs="+", metavar="DIGEST")
    invalidate = command("invalidate", commands.invalidate, "make a version current: older features are gone")
    invalidate.add_argument("--encoder", required=True, metavar="NAME")
    invalidate.add_argument("--version", metavar="V", help="(default: the one that is current)")
    command("status", commands.status, "what the node is and has counted")
    command("peers", commands.peers, "the members of the cluster")
    top = command("top", commands.top, "what every member does, each second; without a terminal, once")
    top.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="between two readings (1)")
    bench = command("bench", commands.bench, "how long the node takes to encode, and to answer from memory and a peer")
    bench.add_argument("--count", type=int, default=50, metavar="N", help="images that are encoded for each row (50)")
    command("doctor", commands.doctor, "why devices do not see each other, or answer slowly")

    about = "make the key that lets devices into a cluster, or show the token of one"
    key_parser = subparsers.add_parser("key", help=about, description=about, parents=[_everywhere()])
    keys = key_parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, about in (
        ("new", commands.key_new, "write a new key to FILE, for every device of a cluster to have"),
        ("rotate", commands.key_rotate, "put a new key into FILE; nodes that have the file take the former key too"),
        ("retire", commands.key_retire, "take the former key out of FILE, once every device has the new one"),
        ("token", commands.key_token, "print what HTTP requests from other machines need, for curl"),
    ):
        key = keys.add_parser(name, help=about, description=about, parents=[_everywhere()])
        key.add_argument("file", metavar="FILE")
        key.set_defaults(run=run, is_local=True)
    return parser


def _namespace(file: str | None) -> str | None:
    """The secret in `file`."""
    return None if file is None else Path(file).read_text("ascii", "replace").strip()


async def _run(arguments: argparse.Namespace, namespace: str | None) -> int:
    if not arguments.timeout > 0:
        raise InvalidValue(f"timeout {arguments.timeout}: expected seconds above zero")
    encoder, version = getattr(arguments, "encoder", None), getattr(arguments, "version", None)

    def client(url: str) -> Client:
        return Client(
            url,
            encoder=encoder,
            version=version,
            timeout_s=arguments.timeout,
            cluster_key=arguments.cluster_key,
            namespace=namespace,
        )

    arguments.elsewhere = client
    async with client(arguments.url) as cache:
        status: int = await arguments.run(cache, arguments)
        return status


if __name__ == "__main__":
    sys.exit(main())
