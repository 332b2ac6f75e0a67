"""Closed-loop returns of two policies on the same seeds: what compression costs where it counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 10_000
_LEVEL = 95.0


@dataclass(frozen=True, slots=True)
class PairedReturns:
    """Episodes that began alike and were played by both.

    Attributes:
        episodes: how many.
        mean_float: mean return of the float policy.
        mean_compressed: of the compressed one.
        difference: compressed less float, the mean over the pairs.
        low: lower end of the difference's 95 % interval (bootstrap over the pairs).
        high: its upper end.
    """

    episodes: int
    mean_float: float
    mean_compressed: float
    difference: float
    low: float
    high: float


def compare_returns(of_float: Sequence[float], of_compressed: Sequence[float], *, seed: int = 0) -> PairedReturns:
    """Compare the returns of episodes with equal seeds, one by one.

    The interval is the percentile bootstrap of the mean difference (Efron 1979): returns are far from normal.

    Args:
        of_float: undiscounted returns, in the order of the seeds.
        of_compressed: the same of the other policy.
        seed: of the resampling.

    Raises:
        ValueError: they are not as many, or none.
    """
    if len(of_float) != len(of_compressed) or not of_float:
        raise ValueError(f"{len(of_float)} and {len(of_compressed)} returns make no pairs: play the same seeds")
    differences = np.subtract(of_compressed, of_float)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(differences), size=(_RESAMPLES, len(differences)))
    low, high = np.percentile(differences[drawn].mean(axis=1), [(100 - _LEVEL) / 2, (100 + _LEVEL) / 2])
    return PairedReturns(
        episodes=len(differences),
        mean_float=float(np.mean(of_float)),
        mean_compressed=float(np.mean(of_compressed)),
        difference=float(differences.mean()),
        low=float(low),
        high=float(high),
    )
