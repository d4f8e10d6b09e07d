"""Many scenarios at once: every combination of a grid, on all cores or a Dask cluster, going on where it stopped."""

from __future__ import annotations

import csv
import importlib
import itertools
import json
import signal
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from ..protocol.errors import InvalidValue
from .measure import TIERS, described, summary
from .outputs import check_writable
from .scenario import Scenario, changed, preset
from .world import InvariantBroken, simulate

RUNS_MAX = 100_000
DASK_WITHIN_S = 10
SUFFIXES = (".csv", ".parquet")

Row = dict[str, Any]


def scenarios_of(path: Path) -> list[Scenario]:
    """Every combination of the lists in the file's `[grid]`, over its other settings. InvalidValue."""
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidValue(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    grid = table.pop("grid", None)
    if not isinstance(grid, dict) or not grid:
        raise InvalidValue(f"{path}: there is no [grid] with lists of values, such as memory = ['32MiB', '64MiB']")
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise InvalidValue(f"{path}: grid.{name} = {values!r}: expected a list of values")
    runs = 1
    for values in grid.values():
        runs *= len(values)
    if runs > RUNS_MAX:
        raise InvalidValue(f"{path}: {runs:,} combinations, at most {RUNS_MAX:,}")
    try:
        base = changed(preset(table.pop("scenario", "retail")), table)
        return [changed(base, dict(zip(grid, values, strict=True))) for values in itertools.product(*grid.values())]
    except InvalidValue as error:
        raise InvalidValue(f"{path}: {error}") from None


def row_of(scenario: Scenario) -> Row:
    """One run: its settings, and what came of it. InvariantBroken names all that the run depends on."""
    try:
        result = summary(simulate(scenario))
    except InvariantBroken as error:
        raise InvariantBroken(f"{error}, in a run of {json.dumps(described(scenario))}") from error
    answers, requests = result["answers"], max(1, result["requests"])
    return {
        **settings_of(scenario),
        "requests": result["requests"],
        "failed": result["failed"],
        "hit_rate": result["hit_rate"],
        "hit_rate_warm": result["hit_rate_warm"],
        "local_hit_rate_warm": result["local_hit_rate_warm"],
        **{f"{tier}_share": round(answers[tier] / requests, 6) for tier in TIERS},
        **{f"{name}_ms": result["latency_ms"][name] for name in ("mean", "p50", "p95", "p99")},
        "p95_warm_ms": result["latency_ms"]["warm"]["p95"],
        "encodes": result["encodes"],
        "lan_bytes": result["bytes"]["lan"],
        "uplink_bytes": result["bytes"]["uplink_up"] + result["bytes"]["uplink_down"],
        "joules": result["joules"]["all"],
        "price_usd": result["price_usd"]["all"],
    }


def settings_of(scenario: Scenario) -> Row:
    """What tells one run from another, as columns."""
    told = described(scenario)
    told["faults"] = " ".join(told["faults"]) or "none"
    for table in ("parameters", "device_numbers"):
        told[table] = json.dumps(told[table], sort_keys=True)
    return told


# -- running --------------------------------------------------------------------------------------------------------


def run(scenarios: Sequence[Scenario], out: Path, jobs: int, dask: str | None) -> Iterator[tuple[int, Row]]:
    """Each run's number and row, as they end; those that are in `out` or beside it already come first.

    A row is kept in a file beside `out` as soon as it is there; `out` is written at the end, in the grid's order. What
    other grids have left in the two files stays, behind this one's: runs take long.
    """
    aside = _aside(out)
    known = {_identity(row): row for row in [*(_read(out) if out.exists() else []), *_read_lines(aside)]}
    wanted = [_identity(settings_of(scenario)) for scenario in scenarios]
    rows: list[Row | None] = [known.get(identity) for identity in wanted]
    for number, row in enumerate(rows):
        if row is not None:
            yield number, row
    missing = [number for number, row in enumerate(rows) if row is None]
    with aside.open("a") as file:
        for number, row in _in_parallel([(number, scenarios[number]) for number in missing], jobs, dask):
            file.write(json.dumps(row) + "\n")
            file.flush()
            rows[number] = row
            yield number, row
    others = known.keys() - wanted
    write([row for row in rows if row is not None] + [row for key, row in known.items() if key in others], out)
    aside.unlink(missing_ok=True)


def _in_parallel(work: Sequence[tuple[int, Scenario]], jobs: int, dask: str | None) -> Iterator[tuple[int, Row]]:
    jobs = min(jobs, len(work))
    if dask is not None:
        yield from _on_dask(work, dask)
    elif jobs <= 1:
        for number, scenario in work:
            yield number, row_of(scenario)
    else:
        others = active_children()
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            # Ctrl-C goes to every process of a terminal. Those that begin here do not hear it: this one ends them.
            former = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            try:
                futures: dict[Future[Row], int] = {pool.submit(row_of, scenario): number for number, scenario in work}
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, former)
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in active_children():
                    if process not in others:
                        process.terminate()
                raise


def _on_dask(work: Sequence[tuple[int, Scenario]], address: str) -> Iterator[tuple[int, Row]]:
    """On the workers of a Dask cluster, which need edgecache installed. InvalidValue where there is none."""
    try:
        distributed = importlib.import_module("distributed")
    except ImportError as error:
        raise InvalidValue("--dask needs distributed: pip install 'edgecache[dask]'") from error
    try:
        client = distributed.Client(address, timeout=DASK_WITHIN_S)
    except ValueError as error:
        raise InvalidValue(f"--dask {address}: {error}; expected tcp://HOST:PORT") from None
    except OSError as error:
        raise InvalidValue(f"--dask {address}: no scheduler answers there within {DASK_WITHIN_S} s") from error
    with client:
        futures = {client.submit(row_of, scenario, pure=False): number for number, scenario in work}
        for future in distributed.as_completed(futures):
            yield futures[future], future.result()


# -- files ----------------------------------------------------------------------------------------------------------


def check_out(out: Path) -> None:
    """InvalidValue when rows cannot be written there."""
    if out.suffix not in SUFFIXES:
        raise InvalidValue(f"{out}: results end in {' or '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise InvalidValue(f"{out}: there is no directory {out.parent}")
    if out.suffix == ".parquet":
        _parquet(out)
    check_writable(out)
    check_writable(_aside(out))
    if out.exists():
        _read(out)


def write(rows: Sequence[Row], out: Path) -> None:
    """All rows in one file, which is the former one or the whole new one, whatever happens meanwhile."""
    new = out.with_name(out.name + ".new")
    if out.suffix == ".parquet":
        pyarrow, parquet = _parquet(out)
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), new)
    else:
        with new.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)
    new.replace(out)


def _read(out: Path) -> list[Row]:
    """What a sweep has written; InvalidValue where it is something else, which shall not be lost."""
    try:
        if out.suffix == ".parquet":
            rows: list[Row] = _parquet(out)[1].read_table(out).to_pylist()
        else:
            with out.open(newline="") as file:
                rows = [{name: _value(text or "") for name, text in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InvalidValue(f"{out}: not the results of a sweep: {getattr(error, 'strerror', None) or error}") from None
    for name in SETTINGS:
        if rows and name not in rows[0]:
            raise InvalidValue(f"{out}: not the results of this version's sweeps: there is no column {name!r}")
    return rows


def _aside(out: Path) -> Path:
    return out.with_name(out.name + ".unfinished")


def _read_lines(aside: Path) -> list[Row]:
    """What an interrupted sweep left; its last line may be torn."""
    rows = []
    for line in aside.read_text().splitlines() if aside.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None


SETTINGS = tuple(settings_of(Scenario()))


def _identity(row: Mapping[str, Any]) -> str:
    """The settings of a row, as text; equal for equal runs, whatever file they were in."""
    values = [row.get(name) for name in SETTINGS]
    return json.dumps(["" if value is None else float(value) if isinstance(value, int) else value for value in values])


def _parquet(out: Path) -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise InvalidValue(f"{out}: Parquet needs pyarrow: pip install 'edgecache[simulations]'") from error


# -- what is best ---------------------------------------------------------------------------------------------------


def means(rows: Iterable[Row]) -> list[Row]:
    """A row for runs that differ in their seed alone: each result's mean, and how many `runs` there were."""
    together: dict[str, list[Row]] = {}
    for row in rows:
        together.setdefault(_identity({**row, "seed": 0}), []).append(row)
    return [{**{name: _mean(name, same) for name in same[0]}, "runs": len(same)} for same in together.values()]


def _mean(name: str, rows: Sequence[Row]) -> Any:
    if name in SETTINGS:
        return rows[0][name]
    values = [row[name] for row in rows if row[name] is not None]
    return sum(values) / len(values) if values else None


def uplink_bytes_per_request(row: Row) -> float:
    """Up and down together; so that fleets of different sizes compare."""
    share: float = row["uplink_bytes"] / max(1, row["requests"])
    return share


def pareto(rows: Iterable[Row]) -> list[Row]:
    """The rows that no other beats in hit rate, memory of all devices and bytes on the uplink a request together."""
    points = [
        (-(row["hit_rate_warm"] or 0.0), row["memory_bytes"] * row["devices"], uplink_bytes_per_request(row), row)
        for row in rows
    ]
    front = []
    for *mine, row in points:
        beaten = any(
            other != mine and all(theirs <= ours for theirs, ours in zip(other, mine, strict=True))
            for *other, _ in points
        )
        if not beaten:
            front.append(row)
    return sorted(front, key=lambda row: (row["memory_bytes"] * row["devices"], uplink_bytes_per_request(row)))
