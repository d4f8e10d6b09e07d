"""`edgecache-encoder`: make an encoder fast on this device, and say what that costs.

Exit status: 0 done, 1 could not be done, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ..protocol.errors import EdgeCacheError, InvalidValue
from . import outputs
from .runtimes import Runtime, needing
from .spec import EXPECTED, TINY

if TYPE_CHECKING:
    from .measure import Row

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; what goes wrong is one line on standard error."""
    try:
        options = _parser().parse_args(arguments)
        _check_files(options)
        run = options.run
        run(options)
    except (EdgeCacheError, OSError) as error:
        print(f"edgecache-encoder: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("edgecache-encoder: interrupted", file=sys.stderr)
        return INTERRUPTED
    return DONE


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong; as `node/usage.py`, which is out of this package's reach."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="edgecache-encoder", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    export = commands.add_parser("export", help="write an ONNX file, compared with its origin, for onnx:FILE")
    _common(export)
    _told(export)
    export.add_argument("--out", type=Path, default=Path("encoder.onnx"), metavar="FILE.onnx", help="%(default)s")
    export.add_argument(
        "--precision",
        choices=("float32", "int8", "int8-static"),
        default="float32",
        help="int8: best in ONNX Runtime; int8-static: ranges measured on --images, best in OpenVINO",
    )
    export.add_argument(
        "--pyramid", metavar="2,1,0.5", help="features at these multiples of the grid, the finest first"
    )
    export.set_defaults(run=_export)

    fit = commands.add_parser("fit", help="fit a map of one encoder's features to another's, for --convert")
    fit.add_argument("--from", dest="source", required=True, metavar="SPEC", help="whose features there are")
    fit.add_argument("--to", dest="target", required=True, metavar="SPEC", help="whose features are wanted")
    fit.add_argument("--images", type=Path, required=True, metavar="DIR", help="images to fit and to measure on")
    fit.add_argument("--images-max", type=_from(1), default=2000, metavar="N")
    fit.add_argument("--min-cosine", type=float, default=0.95, metavar="C", help="refuse a map that is worse")
    fit.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")
    fit.set_defaults(run=_fit)

    bench = commands.add_parser("bench", help="measure every runtime and every shortcut: a table, JSON, a plot")
    _common(bench)
    _measuring(bench)
    bench.add_argument("--batch", type=_from(1), default=1, metavar="N", help="images at once")
    bench.add_argument("--no-memory", action="store_true", help="leave out the memory and start of a node's worker")
    bench.set_defaults(run=_bench)

    tune = commands.add_parser("tune", help="find the fastest that is true enough, and write its profile")
    _common(tune)
    _measuring(tune)
    tune.add_argument("--max-ms", type=_above_0, metavar="MS", help="fail if an image takes longer")
    tune.add_argument("--runtime", action="append", choices=list(Runtime), help="only these (default: all installed)")
    tune.add_argument("--out", type=Path, default=Path("profile.toml"), metavar="FILE.toml")
    tune.set_defaults(run=_tune)

    train = commands.add_parser("train", help="teach a smaller encoder to make a larger one's features")
    train.add_argument(
        "--teacher", "--encoder", dest="teacher", required=True, metavar="SPEC", help="whose features are to be made"
    )
    train.add_argument("--images", type=Path, required=True, metavar="DIR", help="pictures, without labels")
    _told(train)
    train.add_argument(
        "--out", type=Path, default=Path("student.safetensors"), metavar="FILE.safetensors", help="%(default)s"
    )
    train.add_argument("--minutes", type=_above_0, default=60.0, metavar="M", help="to teach for (default: 60)")
    train.add_argument("--depth", type=_from(0), default=0, metavar="N", help="blocks (default: half of the teacher's)")
    train.add_argument("--dim", type=_from(0), default=0, metavar="N", help="width (default: the teacher's)")
    train.add_argument(
        "--heads", type=_from(0), default=0, metavar="N", help="of its attention (default: as its width)"
    )
    train.add_argument(
        "--temperature", type=float, default=2.0, metavar="T", help="of the logits, where there is a head"
    )
    train.add_argument("--features-weight", type=float, default=1.0, metavar="W")
    train.add_argument("--logits-weight", type=float, default=0.5, metavar="W")
    train.add_argument("--attention-weight", type=float, default=0.5, metavar="W")
    train.add_argument("--sparsity", type=float, default=0.0, metavar="S", help="share of zeros to prune to on the way")
    train.add_argument("--for-int8", action="store_true", help="learn to live with INT8 in the last third")
    train.add_argument("--batch", type=_from(1), default=32, metavar="N")
    train.add_argument("--images-max", type=_from(1), default=5000, metavar="N")
    train.add_argument("--threads", type=_from(1), default=1, metavar="N")
    train.set_defaults(run=_train)

    about = "precompute features of images for nodes with --cloud to find"
    library = commands.add_parser("library", help=about, description=about)
    about = "encode what is not there yet, and upload it in packs; may be interrupted and run again"
    build = library.add_subparsers(metavar="COMMAND", required=True).add_parser("build", help=about, description=about)
    build.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="files, or directories of them")
    build.add_argument(
        "--to", required=True, metavar="URL", help="what nodes get as --cloud: s3://, gs://, az://, file:///"
    )
    build.add_argument("--encoder", default=TINY, metavar="SPEC", help=EXPECTED)
    where = build.add_mutually_exclusive_group()
    where.add_argument("--processes", type=_from(1), metavar="N", help="of one thread each (default: one a core)")
    where.add_argument("--dask", metavar="tcp://HOST:PORT", help="encode on the workers of this Dask scheduler")
    build.add_argument("--json", action="store_true", help="print what was done as JSON")
    build.add_argument("--quiet", action="store_true", help="show no progress")
    build.set_defaults(run=_library_build)
    return parser


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--encoder", default=TINY, metavar="SPEC", help=EXPECTED)
    command.add_argument("--images", type=Path, metavar="DIR", help="images to measure on: a directory, or an npz")
    command.add_argument("--threads", type=_from(1), default=1, metavar="N")


def _told(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", type=Path, metavar="FILE", help="the table as JSON")
    command.add_argument("--plot", type=Path, metavar="FILE.png", help="speed against fidelity")


def _from(least: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!a}: expected a whole number, at least {least}")
        return value

    return whole


def _above_0(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!a}: expected a number above 0")
    return value


def _check_files(options: argparse.Namespace) -> None:
    """Before the long run, not after it: can what was asked for be written?"""
    for name in ("out", "json", "plot"):
        if isinstance(path := getattr(options, name, None), Path):
            outputs.check_writable(path)


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


def _measuring(command: argparse.ArgumentParser) -> None:
    command.add_argument("--min-cosine", type=float, default=0.99, metavar="C", help="mean, to the plain features")
    command.add_argument("--count", type=_from(3), default=600, metavar="N", help="images, a third of them to fit on")
    _told(command)


def _bench(options: argparse.Namespace) -> None:
    from .bench_command import bench
    from .measure import table

    rows, about = bench(
        options.encoder,
        _images_of(options),
        count=options.count,
        threads=options.threads,
        batch=options.batch,
        cosine_min=options.min_cosine,
        with_memory=not options.no_memory,
    )
    print(table(rows))
    _write(options, rows, about)


def _tune(options: argparse.Namespace) -> None:
    from .measure import table
    from .tune_command import tune

    row, rows, about = tune(
        options.encoder,
        _images_of(options),
        options.out,
        count=options.count,
        threads=options.threads,
        cosine_min=options.min_cosine,
        ms_max=options.max_ms,
        runtimes=options.runtime and [Runtime(name) for name in options.runtime],
    )
    print(table(rows))
    print(f"\n{options.out}: {row.name}, {row.ms:.2f} ms, {row.speedup:.2f} × plain, cosine {row.cosine_mean:.4f}")
    print(f"edgecache-node --encoder {options.out}")
    _write(options, rows, about)


def _images_of(options: argparse.Namespace) -> Path:
    if options.images is None:
        raise InvalidValue("what it costs is measured on real images: name a directory with --images")
    images: Path = options.images
    return images


def _write(options: argparse.Namespace, rows: list[Row], about: dict[str, object]) -> None:
    from . import measure, plot

    if options.json:
        options.json.write_bytes(measure.as_json(rows, about))
    if options.plot:
        title = f"{about['encoder']} on {about['device']}, {about['threads']} threads, batch {about['batch']}"
        plot.draw(rows, title, options.plot)


def _export(options: argparse.Namespace) -> None:
    from .export_command import export
    from .pyramid import scales_of

    scales = scales_of(options.pyramid) if options.pyramid else ()
    if options.json or options.plot:
        _images_of(options)
    line, rows, about = export(
        options.encoder, options.out, options.precision, options.images, scales, threads=options.threads
    )
    print(line)
    _write(options, rows, about)


def _train(options: argparse.Namespace) -> None:
    with needing("encoder"):
        from .distill import Recipe
        from .train_command import Student, train

    recipe = Recipe(
        features=options.features_weight,
        logits=options.logits_weight,
        attention=options.attention_weight,
        temperature=options.temperature,
        sparsity=options.sparsity,
        is_rounded=options.for_int8,
        batch=options.batch,
    )
    size = Student(options.depth, options.dim, options.heads)
    line, rows, about = train(
        options.teacher,
        options.images,
        options.out,
        size,
        recipe,
        minutes=options.minutes,
        count=options.images_max,
        threads=options.threads,
    )
    print(line)
    print(f"edgecache-node --encoder vit:{options.out}")
    _write(options, rows, about)


def _library_build(options: argparse.Namespace) -> None:
    from .library_command import run

    run(options)
