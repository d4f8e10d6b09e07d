"""`edgecache-encoder`: make an encoder fast on this device, and say what that costs.

Exit status: 0 done, 1 could not be done, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..protocol.errors import EdgeCacheError, InvalidValue
from .spec import EXPECTED, TINY


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; what goes wrong is one line on standard error."""
    options = _parser().parse_args(arguments)
    try:
        run = options.run
        run(options)
    except (EdgeCacheError, OSError) as error:
        print(f"edgecache-encoder: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgecache-encoder", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    export = commands.add_parser("export", help="write an ONNX file, compared with its origin, for onnx:FILE")
    _common(export)
    export.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")
    export.add_argument(
        "--precision",
        choices=("float32", "int8", "int8-static"),
        default="float32",
        help="int8: best in ONNX Runtime; int8-static: ranges measured on --images, best in OpenVINO",
    )
    export.set_defaults(run=_export)

    fit = commands.add_parser("fit", help="fit a map of one encoder's features to another's, for --convert")
    fit.add_argument("--from", dest="source", required=True, metavar="SPEC", help="whose features there are")
    fit.add_argument("--to", dest="target", required=True, metavar="SPEC", help="whose features are wanted")
    fit.add_argument("--images", type=Path, required=True, metavar="DIR", help="images to fit and to measure on")
    fit.add_argument("--images-max", type=int, default=2000, metavar="N")
    fit.add_argument("--min-cosine", type=float, default=0.95, metavar="C", help="refuse a map that is worse")
    fit.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")
    fit.set_defaults(run=_fit)
    return parser


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--encoder", default=TINY, metavar="SPEC", help=EXPECTED)
    command.add_argument("--images", type=Path, metavar="DIR", help="images to measure on: a directory, or an npz")
    command.add_argument("--threads", type=int, default=1, metavar="N")


def _fit(options: argparse.Namespace) -> None:
    from ..protocol import conversion
    from .fit import fit
    from .image_set import read_files
    from .load import load

    if not -1.0 <= options.min_cosine <= 1.0:
        raise InvalidValue(f"min-cosine {options.min_cosine}: a cosine is between -1 and 1")
    images, _ = read_files(options.images, options.images_max)
    made = fit(load(options.source), load(options.target), images, options.min_cosine)
    conversion.save(made, options.out)
    print(
        f"{options.out}: {made.source} to {made.target}, cosine {made.fidelity_mean:.4f} in the mean and at least "
        f"{made.fidelity:.4f} over {made.pairs} images that it was not fitted on"
    )


def _export(options: argparse.Namespace) -> None:
    from .export_command import export

    print(export(options.encoder, options.out, options.precision, options.images))
