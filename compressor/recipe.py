"""What to do to a policy on its way into a file, as a frozen value with a text form.

`float32` is the network as it is, `float16` halves its weights, `int8-dynamic` quarters them and lets the
runtime quantise activations at each call. A part after `+` departs from the default:
`int8-dynamic+per-tensor` gives each weight matrix one scale, for runtimes that misread a scale per row.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Self


class UnknownRecipeError(ValueError):
    """The text names no recipe."""


class Precision(StrEnum):
    """How weights are stored."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8_DYNAMIC = "int8-dynamic"


class WeightScales(StrEnum):
    """How many scales an int8 weight matrix has; per channel (output row) is the more precise."""

    PER_CHANNEL = "per-channel"
    PER_TENSOR = "per-tensor"


@dataclass(frozen=True, slots=True)
class CompressionRecipe:
    """What to do to a policy; `str` gives its text form, `parse` reads it.

    Attributes:
        precision: how weights are stored.
        weight_scales: scales of int8 weights; nothing to the float precisions.
    """

    precision: Precision = Precision.INT8_DYNAMIC
    weight_scales: WeightScales = WeightScales.PER_CHANNEL

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
        return [*per_channel, cls(Precision.INT8_DYNAMIC, WeightScales.PER_TENSOR)]
