"""Where results go: checked before a long run and not after it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from ..encoder.outputs import check_writable as check_writable
from ..protocol.errors import InvalidValue

PICTURES = (".png", ".pdf", ".svg")


def check_picture(path: Path) -> None:
    """InvalidValue when no picture can be drawn there."""
    if path.suffix.lower() not in PICTURES:
        raise InvalidValue(f"{path}: a picture ends in {', '.join(PICTURES)}")
    check_writable(path)
    require_matplotlib()


def require_matplotlib() -> None:
    """Draw into files, not on a screen. InvalidValue when there is nothing to draw with."""
    try:
        importlib.import_module("matplotlib").use("Agg")
    except ImportError as error:
        raise InvalidValue("--plot needs matplotlib: pip install 'edgecache[simulations]'") from error


def write_json(result: dict[str, Any], path: Path) -> None:
    """The result as JSON. OSError that names the file."""
    try:
        path.write_text(json.dumps(result, indent=1) + "\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
