"""Payloads that were right, and were changed by somebody who does not know the format, or knows it well."""

import random
from typing import Final

NASTY: Final = [
    b"\x00",
    b"\xff",
    b"\xc1",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x91" * 90,
]
"""Ends and lengths that are lies, a number that is none, one that fits no signed type, and a deep nest."""


def mutated(payload: bytes, rng: random.Random) -> bytes:
    """A payload with one to eight changes."""
    mutant = bytearray(payload)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(mutant) + 1)
        match rng.randrange(6):
            case 0 if mutant:
                mutant[at - 1] ^= 1 << rng.randrange(8)
            case 1:
                mutant[at:at] = rng.choice(NASTY)
            case 2:
                del mutant[at : at + rng.randrange(1, 9)]
            case 3:
                mutant[at : at + 4] = rng.randbytes(4)
            case 4:
                mutant[at:at] = mutant[: rng.randrange(1, 20)]
            case _:
                del mutant[at:]
    return bytes(mutant)
