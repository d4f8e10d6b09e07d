"""`edgecache-encoder library build`: a feature library from the command line."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from ..protocol.cloud.objects import open_objects
from ..protocol.errors import EdgeCacheError, InvalidValue
from .library import Built, Library, Workers, images_in
from .spec import Spec

DASK_TIMEOUT_S = 10
BAR_CHARS = 24
_SHOWN_EVERY_S = 0.1


def run(options: argparse.Namespace) -> None:
    """Build, and tell of it. InvalidValue, ObjectStoreError; EdgeCacheError if an image could not be encoded."""
    Spec.parse(options.encoder)
    images = images_in(options.images)
    objects = open_objects(options.to)
    progress = Progress(len(images), is_shown=sys.stderr.isatty() and not options.quiet)
    with _dask(options.dask) if options.dask is not None else _processes(options.processes) as workers:
        library = Library(options.encoder, objects, workers, progress.told)
        try:
            built = asyncio.run(library.build(images))
        finally:
            progress.end()
    print(json.dumps(asdict(built)) if options.json else told(built))
    for failure in built.failures:
        print(failure, file=sys.stderr)
    if built.failed:
        raise EdgeCacheError(f"{built.failed} of {built.images} images could not be encoded")


def told(built: Built) -> str:
    """One line of what was done."""
    return (
        f"{built.images} images: {built.encoded} encoded, {built.there} there already, {built.failed} failed; "
        f"{built.packs} packs, {built.nbytes / 1e6:.1f} MB uploaded"
    )


class Progress:
    """A line on standard error that tells how far it is, at most ten times a second."""

    def __init__(self, total: int, *, is_shown: bool) -> None:
        self._total = total
        self._is_shown = is_shown
        self._started = time.monotonic()
        self._shown_at = 0.0
        self._width = 0

    def told(self, built: Built) -> None:
        """So much is done."""
        now = time.monotonic()
        if not self._is_shown or now - self._shown_at < _SHOWN_EVERY_S:
            return
        self._shown_at = now
        line = progress_line(built, self._total, now - self._started)
        sys.stderr.write("\r" + line.ljust(self._width))
        sys.stderr.flush()
        self._width = len(line)

    def end(self) -> None:
        """Leave the line as it is."""
        if self._width:
            sys.stderr.write("\n")


def progress_line(built: Built, total: int, seconds: float) -> str:
    """`[######------]  1234 of 5000, 31.0/s, 2 min 1 s left`; the rate is that of what had to be encoded."""
    done = built.encoded + built.there + built.failed
    filled = BAR_CHARS * done // total
    rate = built.encoded / seconds if seconds > 0 else 0.0
    left = ""
    if rate > 0:
        # Of what is left, as large a part is there already as of what was seen.
        seconds_left = round((total - done) * (built.encoded / done) / rate)
        left = f", {seconds_left // 60} min {seconds_left % 60} s left"
    return f"[{'#' * filled}{'-' * (BAR_CHARS - filled)}] {done} of {total}, {rate:.1f}/s{left}"


@contextmanager
def _processes(count: int | None) -> Iterator[Workers]:
    count = count or len(os.sched_getaffinity(0))
    # One thread each: two processes of one thread encode more than one of two. Read when a process loads its encoder.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    # Ctrl-C at the terminal goes to all of them; they are ended by this one, which uploads what they made.
    executor = ProcessPoolExecutor(
        count, mp_context=context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    )
    try:
        yield Workers(executor, 2 * count)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _dask(address: str) -> Iterator[Workers]:
    try:
        distributed: Any = importlib.import_module("distributed")
    except ModuleNotFoundError:
        raise InvalidValue("--dask: distributed is not installed: pip install 'edgecache[dask]'") from None
    try:
        client = distributed.Client(address, timeout=DASK_TIMEOUT_S)
    except (OSError, ValueError, TimeoutError) as error:
        raise InvalidValue(f"--dask {address}: no scheduler answers: {error}") from None
    try:
        threads = sum(client.nthreads().values())
        if not threads:
            raise InvalidValue(f"--dask {address}: the scheduler has no workers")
        yield Workers(client.get_executor(pure=False), 2 * threads)
    finally:
        client.close()
