"""Telemetry is untrusted: refuse numbers that cannot be added up, drawn or stored."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from fleet_protocol.codec import BadMessage
from fleet_protocol.messages import Telemetry
from fleet_protocol.sketch import LatencySketch

_LARGEST: Final = 2**46
"""7e13. A sum of 65,536 of them, as many as the codec lets into one map, fits SQLite's 64 bits."""


def require_sound(telemetry: Telemetry) -> None:
    """Check every number of a decoded message.

    Raises:
        BadMessage: One is not finite or absurdly large, or a sketch contradicts itself.
    """
    for number in _numbers(msgspec.to_builtins(telemetry)):
        if not abs(number) < _LARGEST:  # so, and not >=, because of nan
            raise BadMessage(f"expected numbers below {_LARGEST}, got {number}")
    for name, state in telemetry.sketches.items():
        try:
            LatencySketch.from_state(state)
        except ValueError as error:
            raise BadMessage(f"sketch {name[:40]!r}: {error}") from error


def _numbers(plain: Any) -> Iterator[float]:  # noqa: ANN401 - a message, as msgspec makes it plain
    match plain:
        case int() | float():
            yield plain
        case dict():
            for value in plain.values():  # pyright: ignore[reportUnknownVariableType]
                yield from _numbers(value)
        case list() | tuple():
            for value in plain:  # pyright: ignore[reportUnknownVariableType]
                yield from _numbers(value)
        case _:
            pass
