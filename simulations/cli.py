"""`edgecache-sim`: its command line and exit statuses."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..protocol.errors import InvalidValue
from . import measure, plots, policies, policies_report, report, traces
from .progress import Progress
from .scenario import SCENARIOS, scenario_named
from .world import InvariantBroken, simulate

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. SystemExit(2) for wrong usage, as argparse has it."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except InvalidValue as error:
        return _fail(WRONG_USAGE, str(error))
    except InvariantBroken as error:
        return _fail(FAILED, f"an invariant is broken: {error}")
    except BrokenPipeError:  # `edgecache-sim policies ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return _fail(FAILED, f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return INTERRUPTED


def compare_policies(arguments: argparse.Namespace) -> int:
    """Hit ratios of policies on traces: a table on standard output, and what files were asked for."""
    _check_files(arguments)
    read = [traces.read(path) for path in arguments.trace]
    runs = len(read) * len(arguments.size) * len(arguments.policy)
    results: list[policies.Result] = []

    def begin(what: str) -> None:
        if not arguments.quiet:
            print(f"[{len(results) + 1}/{runs}] {what}", file=sys.stderr, flush=True)

    for result in policies.compare(read, arguments.policy, arguments.size, begin):
        results.append(result)
    if arguments.json is not None:
        rows = [dataclasses.asdict(result) for result in results]
        arguments.json.write_text(json.dumps({"results": rows}, indent=1) + "\n")
    if arguments.plot is not None:
        policies_report.plot(results, arguments.plot)
    print(policies_report.table(results))
    return DONE


def run_cluster(arguments: argparse.Namespace) -> int:
    """One scenario: a table on standard output, and what files were asked for."""
    _check_files(arguments)
    given = {"devices": arguments.devices, "hours": arguments.hours, "seed": arguments.seed}
    scenario = scenario_named(arguments.scenario, {key: value for key, value in given.items() if value is not None})
    with Progress(scenario.name, is_shown=not arguments.quiet) as progress:
        record = simulate(scenario, progress.show)
    result = measure.summary(record)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.plot is not None:
        plots.plot(record, result, arguments.plot)
    print(report.table(result))
    return DONE


def _check_files(arguments: argparse.Namespace) -> None:
    """Before the long run, not after it: can what was asked for be written?"""
    for path in (arguments.json, arguments.plot):
        if path is not None and not path.parent.is_dir():
            raise InvalidValue(f"{path}: there is no directory {path.parent}")
    if arguments.plot is not None:
        policies_report.require_matplotlib()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="edgecache-sim", description="What edgecache does, on recorded and on invented days.")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    about = "Hit ratios of eviction policies on traces; every request is a look-up, and every miss admits."
    compare = subparsers.add_parser("policies", help=about, description=about)
    compare.set_defaults(run=compare_policies)
    add = compare.add_argument
    formats, names = ", ".join(traces.SUFFIXES), ", ".join(policies.MAKERS)
    add("--trace", type=Path, nargs="+", required=True, metavar="FILE", help=f"what was asked for, in order: {formats}")
    add("--policy", type=_policy, nargs="+", default=[*policies.MAKERS], metavar="NAME", help=f"some of {names}")
    add("--size", type=_sizes, default="1%,5%,10%", metavar="P%,...", help="shares of what the trace asks for in all")
    add("--json", type=Path, metavar="FILE", help="write the results there")
    add("--plot", type=Path, metavar="FILE.png", help="draw hit ratio over size there")
    add("--quiet", action="store_true", help="do not say what is being done")

    about = "A cluster of real nodes on virtual time: hits of each tier, latency, bytes, money and energy."
    scenarios = "\n".join(f"  {scenario.name:16} {scenario.about}" for scenario in SCENARIOS.values())
    cluster = subparsers.add_parser(
        "cluster", help=about, description=about, epilog=f"scenarios:\n{scenarios}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    cluster.set_defaults(run=run_cluster)
    add = cluster.add_argument
    add("--scenario", required=True, metavar="NAME|FILE.toml", help="one of those below, or your own")
    add("--devices", type=int, metavar="N", help="how many there are")
    add("--hours", type=float, metavar="H", help="how long they are asked")
    add("--seed", type=int, metavar="S", help="the same seed gives the same run")
    add("--json", type=Path, metavar="FILE", help="write the result there")
    add("--plot", type=Path, metavar="FILE.png", help="draw it there")
    add("--quiet", action="store_true", help="show no progress")
    return parser


def _policy(name: str) -> str:
    if name not in policies.MAKERS:
        raise argparse.ArgumentTypeError(f"there is no policy {name!r}, but {', '.join(policies.MAKERS)}")
    return name


def _sizes(text: str) -> list[float]:
    return [_size(part.strip()) for part in text.split(",")]


def _size(text: str) -> float:
    try:
        percent = float(text.removesuffix("%")) if text.endswith("%") else 0.0
    except ValueError:
        percent = 0.0
    if not 0 < percent <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share above 0 % and up to 100 %, such as 5%")
    return percent / 100


def _fail(status: int, why: str) -> int:
    print(f"edgecache-sim: {why}", file=sys.stderr)
    return status
