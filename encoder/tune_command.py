"""`edgecache-encoder tune`: the fastest configuration that keeps the fidelity asked for, as a profile for a node.

Three passes, each over fewer: all shortcuts are screened for fidelity with torch in float32, where nothing has to be
exported; every runtime alone is measured; then what is left runs on the strongest runtime, and is measured as it will
be run, quantised and all. Fidelity is always that of images that nothing was fitted on.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from ..protocol.errors import InvalidValue
from . import candidates, measure, profile
from .bench_command import Bench, Say, strongest_of
from .build import Built
from .measure import Row
from .options import Options
from .runtimes import Runtime
from .spec import PROFILE_SUFFIX

SCREENED_IMAGES = 128


def tune(
    spec: str,
    images: Path,
    out: Path,
    *,
    count: int,
    threads: int,
    cosine_min: float,
    ms_max: float | None,
    runtimes: list[Runtime] | None = None,
) -> tuple[Row, list[Row], dict[str, object]]:
    """Write the profile to `out`; its row, all rows that were measured, and on what."""
    if not 0 < cosine_min <= 1:
        raise InvalidValue(f"--min-cosine {cosine_min}: expected above 0, at most 1")
    if out.suffix != PROFILE_SUFFIX:
        raise InvalidValue(f"{out}: a profile's name ends in {PROFILE_SUFFIX}")
    say: Say = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    work = Bench.prepare(spec, images, count=count, threads=threads, batch=1, say=say)
    installed = candidates.installed_runtimes()
    for runtime in runtimes or []:
        if runtime not in installed:
            raise InvalidValue(f"runtime {runtime} is not installed: pip install 'edgecache[{runtime}]'")
    chosen = [runtime for runtime in installed if runtimes is None or runtime in runtimes]
    alone = [work.build(candidates.plain(), cosine_min)]
    others = [options for options in candidates.runtimes_alone(chosen) if options != candidates.plain()]
    alone += work.built(others, cosine_min)
    rows = work.rows(alone, with_memory=False)
    best = strongest_of(alone, rows, cosine_min)
    say(f"strongest alone: {best}")
    built = [*alone, *work.built(_screened(work, best, cosine_min), cosine_min)]
    say("measured side by side:")
    rows = measure.relate(work.rows(built, with_memory=False), [one.options.is_whole for one in built])
    index = _fastest(built, rows, cosine_min, ms_max)
    row = rows[index]
    measured = {name: value for name, value in asdict(row).items() if value is not None} | work.about()
    profile.write(out, measure.profile_of(spec, work.encoder, built[index], measured), built[index].files)
    return row, rows, work.about()


def _screened(work: Bench, best: Options, cosine_min: float) -> list[Options]:
    """Shortcuts that keep the fidelity in float32, to be run as `best` is."""
    shape = work.model.shape
    everything = [*candidates.shortcuts_alone(shape, work.least_needed), *candidates.combinations(shape)]
    kept = []
    pixels = work.measured.pixels[:SCREENED_IMAGES]
    for options in everything:
        if best.runtime is Runtime.TORCH and options.is_fitted:
            continue  # what was fitted would be in no file
        tower = work.build(options, cosine_min).tower
        row = measure.fidelity(Row("", 0.0), tower(pixels), work.plain_measured[: len(pixels)], None, None)
        if row.cosine_mean >= cosine_min:
            kept.append(candidates.on(options, best.runtime, best.precision))
    work.say(f"{len(kept)} of {len(everything)} shortcuts keep a mean cosine of {cosine_min} on {len(pixels)} images")
    return kept


def _fastest(built: list[Built], rows: list[Row], cosine_min: float, ms_max: float | None) -> int:
    kept = [
        index
        for index, row in enumerate(rows)
        if row.cosine_mean >= cosine_min and (built[index].files or not built[index].options.is_fitted)
    ]
    if not kept:  # the plain model has a cosine of 1 with itself
        raise InvalidValue(f"nothing keeps a mean cosine of {cosine_min}")
    fastest = min(kept, key=lambda index: rows[index].ms)
    if ms_max is not None and rows[fastest].ms > ms_max:
        raise InvalidValue(
            f"the fastest with a mean cosine of {cosine_min} takes {rows[fastest].ms:.1f} ms, at most {ms_max:g}: "
            f"{rows[fastest].name}"
        )
    return fastest
