"""Which old features are kept because a fitted map tells them as new ones, and what they become. Pure.

Opt-in (`--convert FILE`): after an upgrade the old features are kept where a map leads from them to the version that is
current, and stand in for the new ones until those are encoded. What is converted is answered, with its fidelity and
where it comes from, and never kept or shared: the next answer is to be the real one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..protocol import payload as payloads
from ..protocol.errors import InvalidValue
from ..protocol.keys import FeatureKey

if TYPE_CHECKING:
    from ..protocol.conversion import Conversion
    from ..protocol.keys import EncoderIdentity
    from ..protocol.payload import Payload

CONVERSIONS_MAX = 16


class Conversions:
    """The maps that one node was given."""

    def __init__(self, given: Iterable[Conversion] = ()) -> None:
        """InvalidValue for two maps between the same encoders, and for more than 16."""
        # The truest first: it is tried first.
        self._all = sorted(given, key=lambda conversion: conversion.fidelity, reverse=True)
        if len(self._all) > CONVERSIONS_MAX:
            raise InvalidValue(f"{len(self._all)} conversions: at most {CONVERSIONS_MAX}")
        seen: set[tuple[EncoderIdentity, EncoderIdentity]] = set()
        for conversion in self._all:
            ends = (conversion.source, conversion.target)
            if ends in seen:
                raise InvalidValue(f"two conversions of {conversion.source} to {conversion.target}")
            seen.add(ends)

    def keeps(self, old: EncoderIdentity, is_current: Callable[[EncoderIdentity], bool]) -> bool:
        """Whether features of `old`, which is not current any more, are worth keeping."""
        return any(conversion.source == old and is_current(conversion.target) for conversion in self._all)

    def sources(self, key: FeatureKey, min_fidelity: float) -> list[tuple[FeatureKey, Conversion]]:
        """The keys of old features that may stand in for those of `key`, and their maps, the truest first."""
        return [
            (FeatureKey(key.digest, conversion.source), conversion)
            for conversion in self._all
            if conversion.target == key.encoder and conversion.fidelity >= min_fidelity
        ]


def convert(old: Payload, conversion: Conversion) -> Payload | None:
    """`old` as the features of the same image by the conversion's target; None where it does not have their shape.

    Its fidelity is what is left of the conversion's after it was stored: errors are taken to add up, as angles do.
    """
    key = FeatureKey(old.key.digest, conversion.target)
    try:
        stored = payloads.encode(conversion.apply(old.array()), key)
    except InvalidValue:  # another dim than what it was fitted on, or out of what floats can hold
        return None
    angle = math.acos(max(-1.0, conversion.fidelity)) + math.acos(min(1.0, stored.fidelity))
    return stored.of_fidelity(math.cos(min(math.pi, angle))).knowing(old.knows)
