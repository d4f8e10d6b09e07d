"""docs/simulations.md: each workload with its parameters and their usual values, and all names of a scenario."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from edgecache.simulations.devices import DEVICES, MODELS, NUMBERS
from edgecache.simulations.faults import FAULTS
from edgecache.simulations.links import LINKS
from edgecache.simulations.scenario import SCENARIOS
from edgecache.simulations.workloads.catalogue import WORKLOADS

TEXT = (Path(__file__).parents[3] / "docs" / "simulations.md").read_text()


@pytest.mark.parametrize("name", WORKLOADS)
def test_each_parameter_of_a_workload_is_told_with_its_usual_value(name: str) -> None:
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |"))
    own = [field for field in fields(WORKLOADS[name]) if not (name == "flash-crowd" and "crowd" not in field.name)]
    for parameter in own:
        told = re.search(rf"`{parameter.name}`(?: at)? ([0-9][0-9,.]*)", row)
        assert told is not None, parameter.name
        assert float(told[1].rstrip(".").replace(",", "")) == parameter.default


def test_all_that_can_be_named_in_a_scenario_is_told() -> None:
    for name in (*FAULTS, *DEVICES, *MODELS, *NUMBERS, *(link for link in LINKS if link != "loopback"), *SCENARIOS):
        assert name in TEXT, name
