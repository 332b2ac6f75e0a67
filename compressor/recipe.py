"""What to do to a policy on its way into a file, as a frozen value with a text form.

`float32` is the network as it is, `float16` halves its weights, `int8-dynamic` quarters them and lets the
runtime quantise activations at each call. `int8` and `int8-full` are static: activations are int8 too, on grids that
are calibrated with observations. `int8` keeps what calibration may get wrong out of it: the first layer and the heads
are float32, the memory's matrices as in `int8-dynamic`. `int8-full` is int8 from the pixels to the heads. A part after
`+` departs from the default: `int8-dynamic+per-tensor` gives each weight matrix one scale, for runtimes that misread a
scale per row.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Self


class UnknownRecipeError(ValueError):
    """The text names no recipe."""


class Precision(StrEnum):
    """How weights and activations are stored."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8_DYNAMIC = "int8-dynamic"
    INT8 = "int8"
    INT8_FULL = "int8-full"

    @property
    def needs_calibration(self) -> bool:
        """Whether activations are int8, on grids that only observations can tell."""
        return self in (Precision.INT8, Precision.INT8_FULL)


class WeightScales(StrEnum):
    """How many scales an int8 matrix under float activations has; per channel (output row) is the more precise."""

    PER_CHANNEL = "per-channel"
    PER_TENSOR = "per-tensor"


@dataclass(frozen=True, slots=True)
class CompressionRecipe:
    """What to do to a policy; `str` gives its text form, `parse` reads it.

    Attributes:
        precision: how weights and activations are stored.
        weight_scales: scales of int8 matrices under float activations: those of `int8-dynamic`, and of a memory in
            `int8`. The other precisions have none.
    """

    precision: Precision = Precision.INT8_DYNAMIC
    weight_scales: WeightScales = WeightScales.PER_CHANNEL

    @property
    def needs_calibration(self) -> bool:
        """Whether `compress` must be given observations to calibrate with."""
        return self.precision.needs_calibration

    def __str__(self) -> str:
        is_default = self.weight_scales is WeightScales.PER_CHANNEL
        return str(self.precision) if is_default else f"{self.precision}+{self.weight_scales}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form.

        Raises:
            UnknownRecipeError: no recipe is called so; the sentence suggests the nearest.
        """
        recipes = {str(recipe): recipe for recipe in cls._all()}
        if text in recipes:
            return recipes[text]
        nearest = get_close_matches(text, recipes, n=1, cutoff=0.0)[0]
        raise UnknownRecipeError(
            f"no recipe is called {text!r}: did you mean {nearest!r}? There are {', '.join(recipes)}"
        )

    @classmethod
    def _all(cls) -> list[Self]:
        per_channel = [cls(precision) for precision in Precision]
        per_tensor = [cls(precision, WeightScales.PER_TENSOR) for precision in (Precision.INT8_DYNAMIC, Precision.INT8)]
        return [*per_channel, *per_tensor]
