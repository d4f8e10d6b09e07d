"""`edgecache-node` and `edgecache`: command lines and exit statuses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Coroutine
from typing import Any

from ..protocol.errors import EdgeCacheError, InvalidValue
from . import config as configuration
from . import logs


def node_main() -> int:
    """Run a node; 0 after a graceful end, 1 when it cannot start, 2 for a wrong flag."""
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
    except KeyboardInterrupt:  # before the signal handlers stood
        return 0
    return 0


def client_main() -> int:
    """The client's command line."""
    from .client_cli import main

    return main()


def _run(main: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.run(main)
        return
    asyncio.run(main)


def _fail(status: int, error: Exception) -> int:
    print(f"edgecache-node: {logs.escaped(str(error))}", file=sys.stderr)
    return status
