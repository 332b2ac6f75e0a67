"""What to do to a policy on its way into a file, as a frozen value with a text form. Read this before `pipeline`.

    distill(64,64)+prune(0.5)+qat     +     int8-dynamic+keep(torso[0])
    other weights, which are trained        how they are stored

`float32` is the network as it is, `float16` halves its weights, `int8-dynamic` quarters them and lets the
runtime quantise activations at each call, `int4-dynamic` is an experiment with an eighth. `int8` and `int8-full` are
static: activations are int8 too, on grids that are calibrated with observations. `int8` keeps what calibration may get
wrong out of it: the first layer and the heads are float32, the memory's matrices as in `int8-dynamic`. `int8-full` is
int8 from the pixels to the heads. `per-tensor` gives each weight matrix one scale, for runtimes that misread a scale
per row.

Steps have one order, because they have one meaning only in it: a student is pruned, what is left learns to be
quantised, and what is kept in float32 is kept from the precision before it.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from typing import Final, Self


class RecipeError(ValueError):
    """The text or the steps make no recipe."""


class Precision(StrEnum):
    """How weights and activations are stored."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8_DYNAMIC = "int8-dynamic"
    INT4_DYNAMIC = "int4-dynamic"
    INT8 = "int8"
    INT8_FULL = "int8-full"

    @property
    def needs_calibration(self) -> bool:
        """Whether activations are int8, on grids that only observations can tell."""
        return self in (Precision.INT8, Precision.INT8_FULL)

    @property
    def is_float(self) -> bool:
        """Whether nothing of it is made of integers."""
        return self in (Precision.FLOAT32, Precision.FLOAT16)


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
        student: widths of the layers of a smaller network that learns to act like the policy; empty for none.
        pruned: the share of each layer's units that is taken away, 0 for none; what is left learns to make up for it.
        is_trained_for: whether the weights learn with the precision's rounding in their way (QAT).
        kept: blocks that stay in float32, by the names that the file gives them.

    Raises:
        RecipeError: the parts contradict each other.
    """

    precision: Precision = Precision.INT8_DYNAMIC
    weight_scales: WeightScales = WeightScales.PER_CHANNEL
    student: tuple[int, ...] = ()
    pruned: float = 0.0
    is_trained_for: bool = False
    kept: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.student):
            raise RecipeError(f"distill({_list(self.student)}) has a layer without units: give widths of 1 or more")
        if not 0.0 <= self.pruned < 1.0:
            raise RecipeError(f"prune({self.pruned:g}) leaves an empty layer: give a share between 0 and 1")
        if self.is_trained_for and self.precision not in _TRAINABLE:
            raise RecipeError(f"qat has nothing to learn for {self.precision}: follow it with {_or(_TRAINABLE)}")
        if self.weight_scales is WeightScales.PER_TENSOR and self.precision not in _SCALED:
            raise RecipeError(f"{self.precision} has no scales that could be per-tensor: only {_or(_SCALED)} have")
        if self.kept and self.precision.is_float:
            raise RecipeError(f"keep keeps layers from being int8, and {self.precision} has none: leave it out")
        if len(set(self.kept)) < len(self.kept):
            raise RecipeError(f"keep names a layer twice, {', '.join(self.kept)}: name each once")

    @property
    def needs_calibration(self) -> bool:
        """Whether `compress` must be given observations to calibrate with."""
        return self.precision.needs_calibration

    @property
    def needs_training(self) -> bool:
        """Whether the file has other weights than the policy, which have to be learned."""
        return bool(self.student) or self.pruned > 0 or self.is_trained_for

    @property
    def storage(self) -> Self:
        """The same without the steps that train: what is left to do when they are done."""
        return replace(self, student=(), pruned=0.0, is_trained_for=False)

    def __str__(self) -> str:
        steps = [
            f"distill({_list(self.student)})" if self.student else "",
            f"prune({self.pruned})" if self.pruned else "",
            "qat" if self.is_trained_for else "",
            str(self.precision),
            "per-tensor" if self.weight_scales is WeightScales.PER_TENSOR else "",
            f"keep({_list(self.kept)})" if self.kept else "",
        ]
        return "+".join(step for step in steps if step)

    @classmethod
    def parse(cls, text: str) -> "CompressionRecipe":
        """Read the text form.

        Raises:
            RecipeError: a step is unknown (the sentence suggests the nearest), comes twice or in the wrong place, lacks
                its numbers, or contradicts another.
        """
        changes: dict[str, object] = {}
        places: list[int] = []
        for step in re.split(r"\+(?![^(]*\))", text):
            kind, value = _read(step.strip())
            if places and kind.place <= places[-1]:
                raise RecipeError(f"{text!r} has {step.strip()} in the wrong place, or twice: the order is {_ORDER}")
            places.append(kind.place)
            changes[kind.field] = value
        if "precision" not in changes:
            raise RecipeError(f"{text!r} does not say how weights are stored: add {_or(Precision)}")
        return cls(**changes)  # type: ignore[arg-type]


_TRAINABLE: Final = (Precision.INT8_DYNAMIC, Precision.INT8, Precision.INT8_FULL)
_SCALED: Final = (Precision.INT8_DYNAMIC, Precision.INT8)


@dataclass(frozen=True, slots=True)
class _Step:
    """A step of the text form.

    Attributes:
        place: where it comes; steps of one place exclude each other.
        example: how it is written.
        field: what it sets.
        read: from what stands between its parentheses to the value; None for a step without.
        value: of a step without.
    """

    place: int
    example: str
    field: str
    read: Callable[[Sequence[str]], object] | None = None
    value: object = None


_STEPS: Final = {
    "distill": _Step(0, "distill(64,64)", "student", read=lambda widths: tuple(map(int, widths))),
    "prune": _Step(1, "prune(0.5)", "pruned", read=lambda shares: _share(*shares)),
    "qat": _Step(2, "qat", "is_trained_for", value=True),
    **{str(precision): _Step(3, str(precision), "precision", value=precision) for precision in Precision},
    "per-tensor": _Step(4, "per-tensor", "weight_scales", value=WeightScales.PER_TENSOR),
    "keep": _Step(5, "keep(torso[0],logits)", "kept", read=tuple),
}
_ORDER: Final = "distill, prune, qat, a precision, per-tensor, keep"


def _read(text: str) -> tuple[_Step, object]:
    """What a step is, and the value that it sets."""
    name, opened, _ = text.partition("(")
    step = _STEPS.get(name)
    if step is None:
        nearest = get_close_matches(name, _STEPS, n=1, cutoff=0.0)[0]
        raise RecipeError(f"no step is called {name!r}: did you mean {nearest!r}? There are {', '.join(_STEPS)}")
    if step.read is None and not opened:
        return step, step.value
    arguments = [part.strip() for part in text[len(name) + 1 : -1].split(",")]
    unreadable = RecipeError(f"{text!r} cannot be read: write it like {step.example}")
    if step.read is None or not text.endswith(")") or not all(arguments):
        raise unreadable
    try:
        return step, step.read(arguments)
    except (ValueError, TypeError) as error:
        raise unreadable from error


def _share(text: str) -> float:
    share = float(text)
    if share == 0:
        raise ValueError(text)  # a step that does nothing would not be printed back
    return share


def _list(parts: Iterable[object]) -> str:
    return ",".join(map(str, parts))


def _or(precisions: Iterable[Precision]) -> str:
    *others, last = precisions
    return f"{', '.join(others)} or {last}"


# --- the same, by function -------------------------------------------------------------------------------------------


def float32() -> CompressionRecipe:
    """Weights as they are."""
    return CompressionRecipe(Precision.FLOAT32)


def float16() -> CompressionRecipe:
    """Weights of half the size; a runtime makes them float32 again when it loads them."""
    return CompressionRecipe(Precision.FLOAT16)


def int8_dynamic(*, per_tensor: bool = False) -> CompressionRecipe:
    """int8 weights; activations are quantised at each call, on the grid that they need then."""
    return CompressionRecipe(weight_scales=WeightScales.PER_TENSOR if per_tensor else WeightScales.PER_CHANNEL)


def int4_dynamic() -> CompressionRecipe:
    """int4 weights, otherwise as `int8_dynamic`: an experiment, which costs much agreement."""
    return CompressionRecipe(Precision.INT4_DYNAMIC)


def int8() -> CompressionRecipe:
    """int8 weights and activations, on calibrated grids, between a float32 first layer and float32 heads."""
    return CompressionRecipe(Precision.INT8)


def int8_full() -> CompressionRecipe:
    """int8 from the pixels to the heads."""
    return CompressionRecipe(Precision.INT8_FULL)


def candidates() -> tuple[CompressionRecipe, ...]:
    """The recipes without training that may be the fastest somewhere."""
    return float32(), int8_dynamic(), int8(), int8_full()


def distill(recipe: CompressionRecipe, *widths: int) -> CompressionRecipe:
    """Have a network of these widths learn to act like the policy, and store that one."""
    return replace(recipe, student=widths)


def prune(recipe: CompressionRecipe, share: float) -> CompressionRecipe:
    """Take this share of each layer's units away, let the others learn to do without, and store those."""
    return replace(recipe, pruned=share)


def qat(recipe: CompressionRecipe) -> CompressionRecipe:
    """Let the weights learn with the rounding of the recipe's precision in their way (quantisation-aware training)."""
    return replace(recipe, is_trained_for=True)


def keep(recipe: CompressionRecipe, *blocks: str) -> CompressionRecipe:
    """Keep blocks in float32, by the names that the file gives them."""
    return replace(recipe, kept=blocks)
