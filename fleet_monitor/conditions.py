"""What a board's sensors mean, in words: nobody should have to read bits."""

from typing import Final

from fleet_protocol.messages import Health

_POWER_WORDS: Final = ("under-voltage", "frequency capped", "throttled", "at its temperature limit")
_SINCE_BOOT: Final = 16
"""Raspberry Pi's firmware repeats its bits from here on, for what has happened since the board started."""
_HOT_C: Final = 80.0
"""Raspberry Pis begin to throttle here."""
_LITTLE_MEMORY_MB: Final = 100.0
_LITTLE_DISK_MB: Final = 200.0
_WEAK_DBM: Final = -80.0


def conditions(health: Health) -> list[str]:
    """What is wrong with the board itself, worst first; empty for a board that is well or tells nothing."""
    return [
        *power_words(health.throttled or 0),
        *_beyond(health.temperature_c, _HOT_C, "hot: {:.0f} C", above=True),
        *_beyond(health.memory_available_mb, _LITTLE_MEMORY_MB, "little memory: {:.0f} MB available"),
        *_beyond(health.disk_free_mb, _LITTLE_DISK_MB, "disk nearly full: {:.0f} MB free"),
        *_beyond(health.wifi_dbm, _WEAK_DBM, "weak Wi-Fi: {:.0f} dBm"),
    ]


def power_words(throttled: int) -> list[str]:
    """Raspberry Pi's bits: what is so now, and then what was so earlier."""
    now = [f"{word} now" for bit, word in enumerate(_POWER_WORDS) if throttled >> bit & 1]
    earlier = (throttled >> _SINCE_BOOT) & ~throttled
    return now + [f"{word} earlier, since it started" for bit, word in enumerate(_POWER_WORDS) if earlier >> bit & 1]


def vitals(health: Health) -> str:
    """All that the board tells of itself, as one line; what it cannot tell is left out."""
    parts = [
        *_told(health.cpu_percent, "CPU {:.0f} %"),
        *_told(health.cpu_mhz, "{:.0f} MHz"),
        *_told(health.temperature_c, "{:.0f} C"),
        *_told(health.memory_available_mb, "{:,.0f} MB memory available"),
        *_told(health.disk_free_mb, "{:,.0f} MB disk free"),
        *_told(health.wifi_dbm, "Wi-Fi {:.0f} dBm"),
    ]
    return ", ".join(parts)


def _told(value: float | None, words: str) -> list[str]:
    return [] if value is None else [words.format(value)]


def _beyond(value: float | None, limit: float, words: str, *, above: bool = False) -> list[str]:
    beyond = value is not None and (value >= limit if above else value < limit)
    return _told(value, words) if beyond else []
