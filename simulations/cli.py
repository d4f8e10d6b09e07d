"""`edgecache-sim`: its command line and exit statuses."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..node import standard_streams
from ..node.usage import WRONG_USAGE, OneLineParser
from ..protocol.errors import InvalidValue
from . import measure, outputs, plan, plots, policies, policies_report, report, soak, sweep, sweep_plots, traces
from .devices import DEVICES, MODELS
from .links import LINKS
from .progress import Progress
from .scenario import SCENARIOS, Scenario, changed, scenario_named
from .workloads.catalogue import WORKLOADS
from .world import InvariantBroken, simulate

DONE, FAILED, INTERRUPTED = 0, 1, 130
JOBS_MAX = 1024
PLAN_SEEDS_MAX = 100
SOAK_MINUTES_MAX = 24.0 * 60


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. SystemExit(2) for wrong usage, as argparse has it."""
    standard_streams.prepare()
    former = signal.signal(signal.SIGINT, _interrupted)
    try:
        arguments = _parser().parse_args(argv)
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except InvalidValue as error:
        return _fail(WRONG_USAGE, str(error))
    except InvariantBroken as error:
        return _fail(FAILED, f"an invariant is broken: {error}")
    except BrokenPipeError:  # `edgecache-sim policies ... | head -1`
        standard_streams.let_go_of_stdout()
        return FAILED
    except OSError as error:
        return _fail(FAILED, f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, former)


def _interrupted(*_: object) -> NoReturn:
    """Ctrl-C: end at once. There is nothing to tidy but a sweep's processes; its rows are written as they come.

    asyncio would cancel the run instead, which may be at a moment when a node in it takes no notice.
    """
    if multiprocessing.active_children():
        raise KeyboardInterrupt
    os._exit(INTERRUPTED)


def compare_policies(arguments: argparse.Namespace) -> int:
    """Hit ratios of policies on traces: a table on standard output, and what files were asked for."""
    _check_files(arguments)
    read = [traces.read(path) for path in arguments.trace]
    sizes = 1 if arguments.lru_at else len(arguments.size)
    runs = len(read) * sizes * len(arguments.policy)
    results: list[policies.Result] = []

    def begin(what: str) -> None:
        if not arguments.quiet:
            print(f"[{len(results) + 1}/{runs}] {what}", file=sys.stderr, flush=True)

    if arguments.lru_at:
        results.extend(policies.compare_where(read, arguments.policy, arguments.lru_at, begin))
    else:
        results.extend(policies.compare(read, arguments.policy, arguments.size, begin))
    if not results:
        raise InvalidValue(f"--lru-at {arguments.lru_at * 100:g}%: whatever the size, LRU has that on none of these")
    if arguments.json is not None:
        rows = [dataclasses.asdict(result) for result in results]
        outputs.write_json({"results": rows}, arguments.json)
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
        outputs.write_json(result, arguments.json)
    if arguments.plot is not None:
        plots.plot(record, result, arguments.plot)
    print(report.table(result))
    return DONE


def _check_files(arguments: argparse.Namespace) -> None:
    """Before the long run, not after it: can what was asked for be written?"""
    if (path := getattr(arguments, "json", None)) is not None:
        outputs.check_writable(path)
    if (path := getattr(arguments, "plot", None)) is not None:
        outputs.check_picture(path)


def run_sweep(arguments: argparse.Namespace) -> int:
    """Every combination of a grid, into one file."""
    sweep.check_out(arguments.out)
    _check_files(arguments)
    scenarios = sweep.scenarios_of(arguments.grid)
    rows = {}
    with Progress(arguments.grid.stem, is_shown=not arguments.quiet) as progress:
        for number, row in sweep.run(scenarios, arguments.out, arguments.jobs, arguments.dask):
            rows[number] = row
            progress.show(len(rows) / len(scenarios), f"{len(rows)} of {len(scenarios)} runs")
    in_order = [row for _, row in sorted(rows.items())]
    if arguments.plot is not None:
        sweep_plots.plot_sweep(in_order, arguments.plot)
    print(report.sweep_table(in_order))
    return DONE


def run_plan(arguments: argparse.Namespace) -> int:
    """The smallest cluster that keeps a promise; exit status 1 when there is none."""
    _check_files(arguments)
    if not 0 < arguments.p95_ms < math.inf:
        raise InvalidValue(f"--p95-ms {arguments.p95_ms:g}: expected more than 0 and a number")
    if not 1 <= arguments.seeds <= PLAN_SEEDS_MAX:
        raise InvalidValue(f"--seeds {arguments.seeds}: expected 1 to {PLAN_SEEDS_MAX}")
    names = ("device", "workload", "devices", "model", "link", "hours", "seed", "policy")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if arguments.encode_ms is not None:
        given["device"] = {"kind": arguments.device or "rpi5", "encode_ms": arguments.encode_ms}
    scenario = changed(Scenario(name="plan", hours=4.0), given)
    dataclasses.replace(scenario, seed=scenario.seed + arguments.seeds - 1)  # refused before hours are run for it

    def begin(what: str) -> None:
        if not arguments.quiet:
            print(what, file=sys.stderr, flush=True)

    found = plan.plan(scenario, arguments.p95_ms, arguments.seeds, begin)
    if arguments.json is not None:
        outputs.write_json(plan.as_json(found), arguments.json)
    print(plan.report(found, scenario, arguments.p95_ms, arguments.seeds))
    return DONE if found.best is not None else FAILED


def run_soak(arguments: argparse.Namespace) -> int:
    """Random days; InvariantBroken names the first seed that fails."""
    if arguments.seeds < 1:
        raise InvalidValue(f"--seeds {arguments.seeds}: expected 1 or more")
    if not 0 < arguments.minutes <= SOAK_MINUTES_MAX:
        raise InvalidValue(f"--minutes {arguments.minutes:g}: expected more than 0 and at most {SOAK_MINUTES_MAX:g}")
    logging.getLogger("edgecache").setLevel(logging.CRITICAL)  # what breaks here, breaks on purpose
    happened: Counter[str] = Counter()
    with Progress("soak", is_shown=not arguments.quiet) as progress:
        for number in range(arguments.seeds):
            happened.update(soak.soak(arguments.first + number, arguments.minutes))
            progress.show((number + 1) / arguments.seeds, f"{number + 1} of {arguments.seeds} seeds")
    counted = ", ".join(f"{count:,} × {what}" for what, count in happened.most_common())
    print(f"{arguments.seeds} seeds of {arguments.minutes:g} virtual minutes, no invariant broken: {counted}")
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="edgecache-sim", description="What edgecache does, on recorded and on invented days.")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    about = "Hit ratios of eviction policies on traces; every request is a look-up, and every miss admits."
    compare = subparsers.add_parser("policies", help=about, description=about)
    compare.set_defaults(run=compare_policies)
    add = compare.add_argument
    formats, names = ", ".join(traces.SUFFIXES), ", ".join(policies.MAKERS)
    add("--trace", type=Path, nargs="+", required=True, metavar="FILE", help=f"what was asked for, in order: {formats}")
    add("--policy", type=_policy, nargs="+", default=[*policies.MAKERS], metavar="NAME", help=f"some of {names}")
    size = compare.add_mutually_exclusive_group().add_argument
    size("--size", type=_sizes, default="1%,5%,10%", metavar="P%,...", help="shares of what the trace asks for in all")
    size("--lru-at", type=_size, metavar="P%", help="for each trace the size at which LRU has this hit ratio, instead")
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

    about = "Runs of `cluster` for every combination of the lists in a file's [grid]; goes on where it stopped."
    sweeping = subparsers.add_parser("sweep", help=about, description=about)
    sweeping.set_defaults(run=run_sweep)
    add = sweeping.add_argument
    add("grid", type=Path, metavar="GRID.toml", help="settings of a scenario, and in [grid] lists of them")
    add("--out", type=Path, default=Path("sweep.csv"), metavar="FILE", help=".csv or .parquet (default: sweep.csv)")
    add("--plot", type=Path, metavar="FILE.png", help="draw hit rate over memory and uplink there")
    add("--jobs", type=_jobs, default=os.cpu_count() or 1, metavar="N", help="processes (default: one a core)")
    add("--dask", metavar="tcp://HOST:PORT", help="run on the workers of a Dask cluster instead")
    add("--quiet", action="store_true", help="show no progress")

    about = "The smallest memory, then the fewest copies, then the slowest uplink that keep p95 below a number."
    planning = subparsers.add_parser("plan", help=about, description=about)
    planning.set_defaults(run=run_plan)
    add = planning.add_argument
    add("--p95-ms", type=float, required=True, metavar="MS", help="what 95 %% of the requests must be answered within")
    add("--devices", type=int, metavar="N", help="how many there are (default: 8, also where a log has others)")
    add("--profile", dest="device", metavar="NAME", help=f"what they are: {', '.join(DEVICES)} (default: rpi5)")
    add("--encode-ms", type=float, metavar="MS", help="what `edgecache-encoder bench` measures there, if you have it")
    days = f"a made-up day ({', '.join(WORKLOADS)}), or your log: time,device,digest (default: retail)"
    add("--workload", metavar="NAME|FILE", help=days)
    add("--model", metavar="NAME", help=f"what they encode with: {', '.join(MODELS)} (default: vit-b16)")
    add("--link", metavar="NAME", help=f"what they hang on: {', '.join(LINKS)} (default: wifi)")
    add("--policy", metavar="NAME", help="who is evicted (default: what nodes do)")
    add("--hours", type=float, metavar="H", help="how long to look at (default: 4)")
    add("--seed", type=int, metavar="S", help="the first one (default: 1)")
    seeds = f"how many must keep the promise, each its own day (default: {plan.SEEDS})"
    add("--seeds", type=int, default=plan.SEEDS, metavar="N", help=seeds)
    add("--json", type=Path, metavar="FILE", help="write the result there")
    add("--quiet", action="store_true", help="do not say what is being tried")

    about = (
        "Random kills, splits, joins, slow devices and invalidations, and no promise broken; a failure names its seed."
    )
    soaking = subparsers.add_parser("soak", help=about, description=about)
    soaking.set_defaults(run=run_soak)
    add = soaking.add_argument
    add("--seeds", type=int, default=20, metavar="N", help="how many (default: 20)")
    add("--first", type=int, default=0, metavar="S", help="the first of them: to see one again")
    add("--minutes", type=float, default=2.0, metavar="M", help="virtual minutes of each (default: 2)")
    add("--quiet", action="store_true", help="show no progress")
    return parser


def _policy(name: str) -> str:
    if name not in policies.MAKERS:
        raise argparse.ArgumentTypeError(f"there is no policy {name!r}, but {', '.join(policies.MAKERS)}")
    return name


def _jobs(text: str) -> int:
    jobs = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if not 1 <= jobs <= JOBS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {JOBS_MAX}")
    return jobs


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
