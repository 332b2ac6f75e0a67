"""A user's module as a policy: what it has to take and give, checked in torch before anything is converted."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from compressor.layer import Float64Array, InvalidPolicyError, UnsupportedPolicyError
from compressor.policy_graph import Observations

_TOLERANCE: Final = 1e-4
"""By how much an output may change with the rest of the batch: float32 sums in another order."""


class PolicyModule(nn.Module):
    """A module whose outputs have the names of a policy's heads.

    Args:
        module: as `convert_module` takes it.
        heads: the width of each.
        is_image: whether observations are uint8; the module sees them as float32.
    """

    def __init__(self, module: object, heads: Mapping[str, int], *, is_image: bool) -> None:
        super().__init__()
        self.policy = _with_weights(module).cpu()
        self.heads = dict(heads)
        self.is_image = is_image
        self.eval()

    def forward(self, observation: Tensor) -> dict[str, Tensor]:
        """Run the module on `[N, ...]`, and name what it gives."""
        outputs = self._named(self.policy(observation.float()))
        wide = {name: tensor for name, tensor in outputs.items() if name != "log_std"}
        if "log_std" in outputs:
            wide["log_std"] = outputs["log_std"].expand_as(outputs["mean"])
        return wide

    def as_input(self, observations: Observations) -> Tensor:
        """Observations as the module is traced with them."""
        return torch.from_numpy(np.ascontiguousarray(observations))

    @torch.no_grad()
    def run(self, observations: Observations) -> dict[str, Float64Array]:
        """Run the module; an array `[N, out]` per head."""
        return {name: tensor.numpy().astype(np.float64) for name, tensor in self(self.as_input(observations)).items()}

    def require_policy(self, samples: Observations) -> None:
        """Run the module on `[N, ...]`, and refuse what is no policy.

        Raises:
            InvalidPolicyError: outputs are not finite, or of another name, shape or dtype.
            UnsupportedPolicyError: it fails, draws at random, or an output depends on other rows of the batch.
        """
        outputs = self._try(samples)
        for name, width in self.heads.items():
            values = outputs[name]
            if values.shape != (len(samples), width):
                raise InvalidPolicyError(
                    f"the module gives {name} of {list(values.shape)} for {len(samples)} observations: the "
                    f"environment's actions need [N, {width}]"
                )
            if not np.isfinite(values).all():
                raise InvalidPolicyError(f"the module gives {name} that are not finite for observations like noise")
        if any(not np.array_equal(values, outputs[name]) for name, values in self._try(samples).items()):
            raise UnsupportedPolicyError(
                "the module gives other outputs for the same observations: return what its distribution is made of "
                f"({' and '.join(self.heads)}) and leave the drawing to the board"
            )
        self._require_rows(samples, outputs)

    def _try(self, samples: Observations) -> dict[str, Float64Array]:
        try:
            return self.run(samples)
        except InvalidPolicyError:
            raise
        except Exception as error:  # the module is somebody else's code, and may raise anything
            raise UnsupportedPolicyError(
                f"the module fails on float32 observations {list(samples.shape)}"
                f"{' (pixels from 0 to 255)' if self.is_image else ''}: {type(error).__name__}: {error}"
            ) from error

    def _require_rows(self, samples: Observations, together: Mapping[str, Float64Array]) -> None:
        """Each row has to be a policy's answer to one observation, whoever stands beside it."""
        for row in range(len(samples)):
            for name, values in self._try(samples[row : row + 1]).items():
                reach = _TOLERANCE * (1 + float(np.abs(values).max()))
                if values.shape != (1, self.heads[name]) or np.abs(values[0] - together[name][row]).max() > reach:
                    raise UnsupportedPolicyError(
                        f"the module's {name} for one observation depend on the others in the batch: the first axis is "
                        "the board's environments, so nothing may be computed across it"
                    )

    def _named(self, given: Any) -> dict[str, Tensor]:  # noqa: ANN401 - whatever a user's module gives
        outputs = {"logits": given} if isinstance(given, Tensor) and "logits" in self.heads else given
        expected = "a tensor of logits" if "logits" in self.heads else f"a dict of {' and '.join(self.heads)}"
        if not isinstance(outputs, Mapping) or set(outputs) != set(self.heads):
            got = f"a dict of {sorted(map(str, outputs))}" if isinstance(outputs, Mapping) else type(outputs).__name__
            raise InvalidPolicyError(f"the environment's actions need {expected}, and the module gives {got}")
        for name, tensor in outputs.items():
            if not isinstance(tensor, Tensor) or tensor.dtype != torch.float32:
                kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
                raise InvalidPolicyError(f"the module gives {name} as {kind}: it must be a float32 tensor")
        return dict(outputs)


def _with_weights(module: object) -> nn.Module:
    """Return a module whose weights are there, float32 and finite; another is refused, with their names."""
    if not isinstance(module, nn.Module):
        raise InvalidPolicyError(f"expected a torch.nn.Module with its weights, got {type(module).__name__}")
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise InvalidPolicyError(f"{name} has no numbers yet: run the lazy module once before you return it")
        if not tensor.is_floating_point():
            continue
        if tensor.dtype != torch.float32:
            raise InvalidPolicyError(f"{name} is {tensor.dtype}: call .float() on the module before you return it")
        wrong = int((~torch.isfinite(tensor)).sum())
        if wrong:
            raise InvalidPolicyError(
                f"{name} holds {wrong} of {tensor.numel()} numbers that are not finite: load sound weights before you "
                "return the module"
            )
    return module
