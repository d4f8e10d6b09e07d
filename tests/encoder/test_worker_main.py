"""The worker process by itself: it speaks frames on its pipes, and ends with whoever started it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from edgecache.encoder import wire

ENCODER = """
import numpy as np, time
from edgecache.protocol.keys import EncoderIdentity

class Encoder:
    identity, shape = EncoderIdentity.declared("plain", "1"), (1, 1)

    def encode_batch(self, images):
        print("noise on standard output")
        if images == [b"sleep"]:
            time.sleep(60)
        return [np.full(self.shape, len(image), np.float32) for image in images]
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain.py").write_text(ENCODER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def worker(spec: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edgecache.encoder.worker_main", spec]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def test_it_is_ready_then_answers_then_ends_with_its_input() -> None:
    with worker("module:plain:Encoder") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ready, _ = wire.read(process.stdout) or (None, b"")  # type: ignore[arg-type]
        assert isinstance(ready, wire.Ready)
        assert (ready.name, ready.tokens, ready.dim) == ("plain", 1, 1)
        wire.write(process.stdin, wire.Encode([3, 2]), [b"abc", b"de"])  # type: ignore[arg-type]
        answer = wire.read(process.stdout)  # type: ignore[arg-type]
        assert answer == (wire.Encoded([None, None]), b"\0\0\x40\x40" + b"\0\0\0\x40")
        process.stdin.close()
        assert process.wait(10) == 0


def test_a_module_may_lie_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-P", "-m", "edgecache.encoder.worker_main", "module:plain:Encoder"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        ready, _ = wire.read(process.stdout) or (None, b"")  # type: ignore[arg-type]
        assert isinstance(ready, wire.Ready)
        process.communicate()


def test_what_is_wrong_with_a_file_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    command = [sys.executable, "-m", "edgecache.encoder.worker_main", f"onnx:{tmp_path / 'text.onnx'}"]
    ended = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert (ended.returncode, ended.stderr) == (1, b"")
    assert b"no ONNX model" in ended.stdout


def test_its_last_words_say_why_it_cannot_start() -> None:
    with worker("module:plain:missing") as process:
        assert process.stdout is not None
        failed, _ = wire.read(process.stdout) or (None, b"")  # type: ignore[arg-type]
        assert failed == wire.Failed("module 'plain' has no attribute 'missing'", is_final=True)
        assert process.wait(10) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_it_ends_with_a_killed_parent_even_while_busy(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import pathlib, subprocess, sys; from edgecache.encoder import wire;"
            "command = [sys.executable, '-m', 'edgecache.encoder.worker_main', 'module:plain:Encoder'];"
            "worker = subprocess.Popen(command, stdin=-1, stdout=-1);"
            "wire.read(worker.stdout); wire.write(worker.stdin, wire.Encode([5]), [b'sleep']);"
            f"pathlib.Path({str(pid_file)!r}).write_text(str(worker.pid)); worker.wait()",
        ]
    )
    while not (pid_file.exists() and pid_file.read_text()):
        time.sleep(0.01)
    pid = int(pid_file.read_text())
    parent.kill()
    parent.wait()
    for _ in range(500):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.01)
    pytest.fail(f"worker {pid} outlived its parent by 5 s")
