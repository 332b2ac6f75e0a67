"""The only place that calls litert-torch: a module and a batch in, the file's tables out, or a sentence."""

import importlib
import io
import re
import warnings
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from compressor.layer import UnsupportedPolicyError

_WHERE: Final = re.compile(r'File "([^"]+)", line (\d+), in \w+\n\s+(.+)')


class MissingConverterError(ImportError):
    """litert-torch is not installed."""


class _InSimplerOperators(TorchFunctionMode):
    """Writes two activations in operators that boards have; litert-torch would compare and select."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        del types
        kwargs = kwargs or {}
        if func is torch.nn.functional.elu:
            return _elu(*args, **kwargs)
        if func is torch.nn.functional.leaky_relu:
            return _leaky_relu(*args, **kwargs)
        return func(*args, **kwargs)


def lower(module: nn.Module, observation: Tensor) -> Any:  # noqa: ANN401 - the schema's classes are generated
    """Convert a module for one batch.

    Args:
        module: takes the keyword `observation` and gives a dict of tensors.
        observation: `[N, ...]`.

    Returns:
        The file's tables: `ai_edge_litert.schema_py_generated.ModelT`.

    Raises:
        MissingConverterError: the extra `convert` is not installed.
        UnsupportedPolicyError: litert-torch cannot convert it; says what, and at which line of the module.
    """
    # It prints its progress, and its dependencies warn of each other.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            litert_torch = importlib.import_module("litert_torch")
            schema = importlib.import_module("ai_edge_litert.schema_py_generated")
        except ImportError as error:
            raise MissingConverterError("converting needs litert-torch: pip install 'edgerl[convert]'") from error
        try:
            with _InSimplerOperators():
                converted = litert_torch.convert(module, sample_kwargs={"observation": observation})
            content = bytes(converted.model_content())
        except Exception as error:  # it raises whatever torch, jax and its own passes raise
            raise UnsupportedPolicyError(_sentence(error)) from error
    return schema.ModelT.InitFromPackedBuf(bytearray(content), 0)


def _sentence(error: Exception) -> str:
    """The first line of a long report, and the last line of the user's code in it."""
    text = str(error)
    problem = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    places = [place for place in _WHERE.findall(text) if "site-packages" not in place[0]]
    where = f", at {places[-1][0]}:{places[-1][1]}: {places[-1][2].strip()}" if places else ""
    advice = ""
    if "data-dependent" in problem:
        advice = "; a policy's steps may not depend on the values that it sees (if, while, .item(), a mask)"
    return f"litert-torch cannot convert the module: {problem}{where}{advice}"


def _elu(observed: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:  # noqa: FBT001, FBT002 - torch's own
    """X where it is positive, else alpha (exp(x) - 1)."""
    del inplace
    below = observed.clamp(max=0.0)
    return observed - below + alpha * (below.exp() - 1)


def _leaky_relu(observed: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:  # noqa: FBT001, FBT002
    """X where it is positive, else slope x."""
    del inplace
    return observed - (1 - negative_slope) * observed.clamp(max=0.0)
