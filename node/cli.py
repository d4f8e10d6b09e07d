"""`edgecache-node` and `edgecache`: command lines and exit statuses."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from . import standard_streams

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator


def node_main() -> int:
    """Run a node; 0 after a graceful end, 1 when it cannot start, 2 for a wrong flag."""
    _end_on_signals()  # before the imports, which take most of a start
    standard_streams.prepare()
    from ..protocol.errors import EdgeCacheError, InvalidValue
    from . import config as configuration
    from . import logs

    try:
        config = configuration.load(sys.argv[1:], os.environ)
    except InvalidValue as error:
        return _fail(2, error)
    logs.set_up(config.log_format)
    from . import process  # after the flags: --help need not wait for it

    try:
        _run(process.run(config, os.environ, lambda: configuration.load(sys.argv[1:], os.environ)))
    except InvalidValue as error:
        return _fail(2, error)
    except EdgeCacheError as error:
        return _fail(1, error)
    return 0


def client_main() -> int:
    """The client's command line."""
    with ending_at_once():
        standard_streams.prepare()
        from .client_cli import main
    return main()


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """While a command imports, Ctrl-C ends it with status 130: there is nothing to end, and no traceback to show."""
    is_heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not in a script's background
    if is_heard:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    yield
    if is_heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_on_signals() -> None:
    """While there is no node yet, and once there is none any more, nobody has to be told that it leaves."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))


def _run(main: Coroutine[Any, Any, None]) -> None:
    import asyncio

    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop

        run = uvloop.run
    try:
        run(main)
    finally:
        _end_on_signals()  # the loop has taken its own away


def _fail(status: int, error: Exception) -> int:
    from . import logs

    print(f"edgecache-node: {logs.escaped(str(error))}", file=sys.stderr)
    return status
