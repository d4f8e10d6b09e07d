"""Whatever happens to the process that encodes, callers get features or a reason, and the next caller gets features.

Most tests use an encoder of their own without torch, whose images are orders: it starts in a fifth of a second and
fails on demand.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from edgecache.encoder import process, worker
from edgecache.encoder.worker import EncoderWorker
from edgecache.protocol.errors import EncoderUnavailable, ImageTooLarge, InvalidValue, UndecodableImage
from PIL import Image

OBEDIENT = """
import os, pathlib, signal, time
import numpy as np
from edgecache.protocol.errors import UndecodableImage
from edgecache.protocol.keys import EncoderIdentity

def hears(how):
    signal.pthread_sigmask(how, [signal.SIGUSR1])

class Encoder:
    identity = EncoderIdentity.declared("obedient", "1")
    shape = (2, 3)

    def encode_batch(self, images):
        pathlib.Path("batches").open("a").write(f"{len(images)}\\n")
        return [self.encode(image.decode()) for image in images]

    def encode(self, order):
        match order.split():
            case ["pid"]: return np.full(self.shape, os.getpid(), np.float32)
            case ["threads"]: return np.full(self.shape, int(os.environ["OMP_NUM_THREADS"]), np.float32)
            case ["passive"]: return np.full(self.shape, os.environ["OMP_WAIT_POLICY"] == "PASSIVE", np.float32)
            case ["sleep", seconds]: time.sleep(float(seconds))
            case ["deaf", seconds]: hears(signal.SIG_BLOCK); time.sleep(float(seconds))
            case ["hear"]: hears(signal.SIG_UNBLOCK)
            case ["bad"]: return UndecodableImage("bad, as ordered")
            case ["print"]: print("to standard output"); os.write(1, b"and to its descriptor")
            case ["raise"]: raise RuntimeError("raised,\\nas ordered")
            case ["memory"]: raise MemoryError
            case ["exit"]: os._exit(7)
            case ["nan"]: return np.full(self.shape, np.nan, np.float32)
            case ["shape"]: return np.zeros((3, 2), np.float32)
            case ["double"]: return np.zeros(self.shape, np.float64)
        return np.full(self.shape, len(order), np.float32)

def make_after_failing():
    count = pathlib.Path("failures")
    count.open("a").write(".")
    raise RuntimeError("cannot be made")
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "obedient.py").write_text(OBEDIENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest_asyncio.fixture
async def obedient() -> AsyncIterator[EncoderWorker]:
    encoder = EncoderWorker("module:obedient:Encoder")
    yield encoder
    await encoder.close()


async def pid_of(encoder: EncoderWorker) -> int:
    return int((await encoder.encode(b"pid"))[0, 0])


def batches() -> list[int]:
    """How many images each call of the encoder had."""
    return [int(line) for line in Path("batches").read_text().split()]


def is_running(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


async def test_the_bundled_encoder_answers_a_photograph() -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 100, 50)).save(file, "JPEG")
    encoder = EncoderWorker("edgecache/tiny", threads=1)
    try:
        assert encoder.known is not None
        before = time.perf_counter()
        await encoder.start()
        assert time.perf_counter() - before < 0.1
        first, wrong, second = await asyncio.gather(
            encoder.encode(file.getvalue()),
            encoder.encode(b"junk"),
            encoder.encode(file.getvalue()),
            return_exceptions=True,
        )
        assert isinstance(first, np.ndarray)
        assert (first.shape, first.dtype.name, first.flags.writeable) == ((64, 192), "float32", False)
        assert np.array_equal(first, np.asarray(second))
        assert isinstance(wrong, UndecodableImage)
    finally:
        await encoder.close()


async def test_an_encoder_of_ones_own_is_described_once_loaded(obedient: EncoderWorker) -> None:
    assert obedient.known is None
    described = await obedient.described()
    assert (str(described.identity), described.shape) == ("obedient@1", (2, 3))
    assert obedient.known == described
    assert (await obedient.encode(b"image")).tolist() == [[5.0] * 3] * 2


async def test_what_waits_goes_together_and_comes_back_in_order(obedient: EncoderWorker) -> None:
    await obedient.encode(b"warm up")
    busy = asyncio.create_task(obedient.encode(b"sleep 0.5"))
    await asyncio.sleep(0.05)
    answers = await asyncio.gather(*(obedient.encode(b"x" * length) for length in range(1, 20)))
    await busy
    assert [int(answer[0, 0]) for answer in answers] == list(range(1, 20))
    assert batches() == [1, 1, 4, 8, 7]  # half as many after a call that took twice the target, or more


async def test_a_bad_image_is_one_callers_affair(obedient: EncoderWorker) -> None:
    pid = await pid_of(obedient)
    with pytest.raises(UndecodableImage, match="bad, as ordered"):
        await obedient.encode(b"bad")
    assert await pid_of(obedient) == pid


async def test_killed_in_mid_encode_the_caller_is_told_and_the_next_one_served(obedient: EncoderWorker) -> None:
    pid = await pid_of(obedient)
    encoding = asyncio.create_task(obedient.encode(b"sleep 60"))
    await asyncio.sleep(0.1)
    waiting = asyncio.create_task(obedient.encode(b"waits"))
    await asyncio.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    for caller in (encoding, waiting):
        with pytest.raises(EncoderUnavailable, match="signal 9") as told:
            await caller
        assert 0 < told.value.retry_after_s < 5
    assert await pid_of(obedient) != pid
    assert not is_running(pid)


async def test_killed_while_idle_nobody_notices(obedient: EncoderWorker) -> None:
    pid = await pid_of(obedient)
    os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(0.2)
    assert await pid_of(obedient) != pid


@pytest.mark.parametrize(
    ("order", "reason"),
    [(b"raise", r"raised,\\nas ordered"), (b"memory", "MemoryError"), (b"exit", "exit status 7")],
)
async def test_a_worker_that_fails_says_why_and_is_replaced(obedient: EncoderWorker, order: bytes, reason: str) -> None:
    pid = await pid_of(obedient)
    with pytest.raises(EncoderUnavailable, match=reason):
        await obedient.encode(order)
    assert await pid_of(obedient) != pid


async def test_features_that_are_not_finite_are_never_returned(obedient: EncoderWorker) -> None:
    with pytest.raises(EncoderUnavailable, match="not finite"):
        await obedient.encode(b"nan")
    assert (await obedient.encode(b"fine"))[0, 0] == 4


@pytest.mark.parametrize("order", [b"shape", b"double"])
async def test_an_encoder_that_breaks_its_promise_of_shape_is_given_up(obedient: EncoderWorker, order: bytes) -> None:
    with pytest.raises(EncoderUnavailable, match=r"expected \(2, 3\) and float32"):
        await obedient.encode(order)
    with pytest.raises(EncoderUnavailable, match=r"expected \(2, 3\) and float32"):
        await obedient.encode(b"fine")


async def test_an_encoder_that_keeps_failing_is_started_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "BACKOFF_FIRST_S", 0.6)
    encoder = EncoderWorker("module:obedient:make_after_failing")
    try:
        with pytest.raises(EncoderUnavailable, match="cannot be made"):
            await encoder.encode(b"image")
        with pytest.raises(EncoderUnavailable, match="cannot be made"):
            await encoder.described()
        before = time.perf_counter()
        with pytest.raises(EncoderUnavailable, match="cannot be made") as told:
            await encoder.encode(b"image")
        assert time.perf_counter() - before < 0.1
        assert told.value.retry_after_s >= 0.6
        assert Path("failures").stat().st_size == 2  # noqa: ASYNC240
    finally:
        await encoder.close()


async def test_what_no_restart_can_mend_is_not_restarted() -> None:
    encoder = EncoderWorker("module:no_such_module:make")
    try:
        for _ in range(2):
            with pytest.raises(EncoderUnavailable, match="No module named 'no_such_module'"):
                await encoder.described()
    finally:
        await encoder.close()


def test_a_wrong_spec_and_a_wrong_number_of_threads_are_refused_at_once() -> None:
    with pytest.raises(InvalidValue, match="expected edgecache/tiny"):
        EncoderWorker("tensorrt:model.plan")
    with pytest.raises(InvalidValue, match="0 encoder threads, at least 1"):
        EncoderWorker("edgecache/tiny", threads=0)


async def test_other_weights_behind_a_known_identity_are_never_used(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = EncoderWorker("module:obedient:Encoder")
    encoder.known = EncoderWorker("edgecache/tiny").known
    try:
        with pytest.raises(EncoderUnavailable, match="weights have changed"):
            await encoder.encode(b"image")
    finally:
        await encoder.close()


async def test_a_worker_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch, obedient: EncoderWorker) -> None:
    pid = await pid_of(obedient)
    monkeypatch.setattr(process, "ENCODE_TIMEOUT_S", 0.2)
    with pytest.raises(EncoderUnavailable, match=r"did not answer in 0\.2 s"):
        await obedient.encode(b"sleep 60")
    assert not is_running(pid)


async def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch, obedient: EncoderWorker) -> None:
    monkeypatch.setattr(worker, "WAITING_IMAGES_MAX", 3)
    monkeypatch.setattr(worker, "WAITING_BYTES_MAX", 100)
    await obedient.start()  # nothing is taken from the queue before it is loaded
    callers = [asyncio.create_task(obedient.encode(b"x" * 30)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(EncoderUnavailable, match="2 images of 60 bytes wait for the encoder, at most 3 of 100"):
        await obedient.encode(b"x" * 50)
    callers.append(asyncio.create_task(obedient.encode(b"x")))
    await asyncio.sleep(0)
    with pytest.raises(EncoderUnavailable, match="3 images of 61 bytes"):
        await obedient.encode(b"x")
    with pytest.raises(ImageTooLarge, match="image of 101 bytes, at most 100"):
        await obedient.encode(b"x" * 101)
    assert [int((await caller)[0, 0]) for caller in callers] == [30, 30, 1]


async def test_callers_who_leave_take_their_images_along(obedient: EncoderWorker) -> None:
    await obedient.encode(b"warm up")
    busy = asyncio.create_task(obedient.encode(b"sleep 0.5"))
    await asyncio.sleep(0.05)
    leaving = [asyncio.create_task(obedient.encode(b"leaves")) for _ in range(worker.WAITING_IMAGES_MAX)]
    await asyncio.sleep(0.01)
    for caller in leaving:
        caller.cancel()
    await asyncio.sleep(0)
    assert (await obedient.encode(b"stays"))[0, 0] == 5
    await busy
    assert batches() == [1, 1, 1]


async def test_a_caller_who_leaves_in_mid_encode_disturbs_nobody(obedient: EncoderWorker) -> None:
    pid = await pid_of(obedient)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await obedient.encode(b"sleep 0.5")
    assert await pid_of(obedient) == pid


async def test_what_nobody_waits_for_any_more_is_stopped_and_the_next_goes_at_once(obedient: EncoderWorker) -> None:
    pid = await pid_of(obedient)
    await obedient.encode(b"sleep 0.5")
    for order in (b"sleep 60", b"sleep 50"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await obedient.encode(order)
        assert not obedient.is_finishing
        async with asyncio.timeout(5):
            await obedient.encode(b"sleep 0.5")
    assert await pid_of(obedient) == pid


async def test_what_somebody_else_waits_for_too_goes_on(obedient: EncoderWorker) -> None:
    await obedient.encode(b"warm up")
    busy = asyncio.create_task(obedient.encode(b"sleep 0.2"))
    await asyncio.sleep(0.05)
    leaves, stays = (asyncio.create_task(obedient.encode(b"sleep 0.2")) for _ in range(2))  # in one call
    await busy
    await asyncio.sleep(0.05)
    leaves.cancel()
    assert (await stays)[0, 0] == 9
    assert batches() == [1, 1, 2]


async def test_an_encoder_that_does_not_stop_says_so_the_next_time(obedient: EncoderWorker) -> None:
    await obedient.encode(b"warm up")
    for _ in range(2):
        leaving = asyncio.create_task(obedient.encode(b"deaf 0.3"))
        await asyncio.sleep(0.1)
        leaving.cancel()
        await asyncio.sleep(0.05)
        is_finishing = obedient.is_finishing
        assert (await obedient.encode(b"hear"))[0, 0] == 4  # told too late, it is stopped instead, and asked again
        assert not obedient.is_finishing
    assert is_finishing


async def test_what_an_encoder_prints_does_not_disturb_the_frames(obedient: EncoderWorker) -> None:
    assert (await obedient.encode(b"print"))[0, 0] == 5
    assert (await obedient.encode(b"fine"))[0, 0] == 4


async def test_threads_are_bounded_and_do_not_spin() -> None:
    encoder = EncoderWorker("module:obedient:Encoder", threads=3)
    try:
        assert (await encoder.encode(b"threads"))[0, 0] == 3
        assert (await encoder.encode(b"passive"))[0, 0] == 1
    finally:
        await encoder.close()


async def test_closing_ends_the_process_and_those_who_wait(obedient: EncoderWorker) -> None:
    pid = await pid_of(obedient)
    callers = [asyncio.create_task(obedient.encode(order)) for order in (b"sleep 60", b"waits")]
    await asyncio.sleep(0.1)
    await obedient.close()
    await obedient.close()
    for caller in callers:
        with pytest.raises(EncoderUnavailable, match="closed"):
            await caller
    with pytest.raises(EncoderUnavailable, match="closed"):
        await obedient.encode(b"late")
    assert not is_running(pid)


async def test_closing_before_it_has_loaded_is_fine() -> None:
    encoder = EncoderWorker("module:obedient:Encoder")
    caller = asyncio.create_task(encoder.encode(b"image"))
    await asyncio.sleep(0)
    await encoder.close()
    with pytest.raises(EncoderUnavailable, match="closed"):
        await caller


async def test_it_starts_where_the_working_directory_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    started = await process.WorkerProcess.spawn("module:obedient:Encoder", 1)
    try:
        assert (await started.load()).shape == (2, 3)
    finally:
        await started.kill()


async def test_ctrl_c_at_the_terminal_is_not_for_the_worker(obedient: EncoderWorker) -> None:
    pid = await pid_of(obedient)
    assert os.getpgid(pid) != os.getpgid(0)
