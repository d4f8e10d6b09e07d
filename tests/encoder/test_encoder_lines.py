"""The kept lines of the encoders' bench: one process for each part."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgecache.protocol.errors import InvalidValue

from tests.bench.encoder_lines import Lines


def test_two_that_ask_for_fidelity_in_one_directory_are_told(tmp_path: Path) -> None:
    first, second = Lines(tmp_path), Lines(tmp_path)
    with first.alone_with("fidelity"):
        with (
            pytest.raises(InvalidValue, match=r"another process is at fidelity there; .* --keep"),
            second.alone_with("fidelity"),
        ):
            pass
        with second.alone_with("timing"):  # one may ask while another times
            pass
    with second.alone_with("fidelity"):
        pass
