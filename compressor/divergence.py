"""How far two policies are apart on the same observations, from their outputs: agreement, KL, and plain errors.

Outputs are arrays `[N, out]` by name; the reference is float64.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from compressor.layer import Float64Array

MEAN_TOLERANCE: Final = 0.02
"""A Gaussian policy agrees on an action when its mean moves by no more than this share of the mean's range."""
_ROUNDING: Final = 1e-6
"""What float32 arithmetic may add to a mean that never changes, and so has no range."""

Array = npt.NDArray[np.floating]
Outputs = Mapping[str, Array]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class HeadError:
    """How far an output is from the reference, in the output's own unit.

    Attributes:
        largest_error: the largest absolute one.
        rms_error: the root of their mean square.
        range_error: the mean absolute one, as a share of the reference's range; 0 where that never changes.
    """

    largest_error: float
    rms_error: float
    range_error: float


def branches_of(expected: Outputs, branches: Sequence[int] | None) -> list[int]:
    """Return how many actions each branch of a categorical head has; empty for a Gaussian one.

    Raises:
        ValueError: they are not as many as the head has.
    """
    actions = expected["logits"].shape[1] if "logits" in expected else 0
    if branches is not None and sum(branches) != actions:
        raise ValueError(f"branches {list(branches)} sum to {sum(branches)}, but the policy has {actions} logits")
    return list(branches) if branches is not None else [actions] if actions else []


def same_action(expected: Outputs, actual: Outputs, branches: Sequence[int]) -> Flags:
    """Return where both would act the same, `[N]`: equal argmax of every branch, or means that are close enough."""
    if "logits" in expected:
        pairs = zip(_split(expected, branches), _split(actual, branches), strict=True)
        return np.all([p.argmax(axis=1) == q.argmax(axis=1) for p, q in pairs], axis=0)
    tolerance = MEAN_TOLERANCE * np.ptp(expected["mean"], axis=0) + _ROUNDING
    return np.all(np.abs(actual["mean"] - expected["mean"]) <= tolerance, axis=1)


def is_clear(expected: Outputs, actual: Outputs, branches: Sequence[int]) -> Flags:
    """Return where every branch's best action leads by more than the largest error of any logit, `[N]`.

    Elsewhere the float policy hardly knows itself. An error here is one of the logits less their mean: what is added to
    all of them changes no action. A branch with one action is always clear, and so is a Gaussian policy.
    """
    if "logits" not in expected:
        return np.ones(len(expected["mean"]), np.bool_)
    pairs = list(zip(_split(expected, branches), _split(actual, branches), strict=True))
    largest = max(float(np.abs(_centred(q) - _centred(p)).max()) for p, q in pairs)
    return np.all([_margin(p) > largest for p, _ in pairs], axis=0)


def kl_divergence(expected: Outputs, actual: Outputs, branches: Sequence[int]) -> Float64Array:
    """Return KL(expected || actual) in nats for each observation, `[N]`.

    Categorical: sum_a p(a) (log p(a) - log q(a)), summed over the branches. Gaussian: sum_a log(s_q / s_p)
    + (s_p^2 + (m_p - m_q)^2) / (2 s_q^2) - 1/2.
    """
    if "logits" in expected:
        log_p, log_q = (
            np.hstack([_log_softmax(logits) for logits in _split(outputs, branches)]) for outputs in (expected, actual)
        )
        return _not_negative((np.exp(log_p) * (log_p - log_q)).sum(axis=1))
    log_std = actual["log_std"].astype(np.float64)
    log_ratio = expected["log_std"] - log_std
    distance = (expected["mean"] - actual["mean"]) / np.exp(log_std)
    return _not_negative((0.5 * (np.exp(2 * log_ratio) + distance**2 - 1) - log_ratio).sum(axis=1))


def head_error(expected: Array, actual: Array) -> HeadError:
    """Return the error of one output."""
    error = actual - expected
    reach = np.ptp(expected, axis=0)
    shares = np.divide(np.abs(error).mean(axis=0), reach, out=np.zeros_like(reach), where=reach > 0)
    return HeadError(
        largest_error=float(np.abs(error).max()),
        rms_error=float(np.sqrt(np.mean(error**2))),
        range_error=float(shares.max()),
    )


def _split(outputs: Outputs, branches: Sequence[int]) -> list[Array]:
    return np.split(outputs["logits"], np.cumsum(branches)[:-1], axis=1)


def _centred(logits: Array) -> Array:
    return logits - logits.mean(axis=1, keepdims=True)


def _margin(logits: Array) -> Array:
    """By how much the best leads, `[N]`."""
    if logits.shape[1] == 1:
        return np.full(len(logits), np.inf)
    return np.diff(np.sort(logits, axis=1)[:, -2:], axis=1).ravel()


def _log_softmax(logits: Array) -> Float64Array:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _not_negative(kl: Float64Array) -> Float64Array:
    """Take away what rounding leaves below zero where both distributions are equal."""
    return np.maximum(kl, 0.0)
