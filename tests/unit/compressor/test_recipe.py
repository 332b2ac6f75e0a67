"""A recipe's text form says all of it, and text that is no recipe is answered with the nearest that is."""

import pytest

from compressor import CompressionRecipe, Precision, UnknownRecipeError, WeightScales

TEXTS = ["float32", "float16", "int8-dynamic", "int8", "int8-full", "int8-dynamic+per-tensor", "int8+per-tensor"]


@pytest.mark.parametrize("text", TEXTS)
def test_text_becomes_a_recipe_and_the_same_text_again(text):
    assert text == str(CompressionRecipe.parse(text))


def test_a_part_after_a_plus_departs_from_the_default():
    expected = CompressionRecipe(Precision.INT8_DYNAMIC, WeightScales.PER_TENSOR)
    assert expected == CompressionRecipe.parse("int8-dynamic+per-tensor")


def test_the_default_recipe_is_dynamic_int8():
    assert CompressionRecipe.parse("int8-dynamic") == CompressionRecipe()


@pytest.mark.parametrize(
    ("text", "nearest"), [("int8-dyn", "int8-dynamic"), ("fp16", "float16"), ("FLOAT32", "float32")]
)
def test_an_unknown_recipe_is_refused_with_a_suggestion(text, nearest):
    with pytest.raises(UnknownRecipeError, match=f"no recipe is called '{text}': did you mean '{nearest}'"):
        CompressionRecipe.parse(text)


def test_static_int8_needs_calibration_and_nothing_else_does():
    assert {text for text in TEXTS if CompressionRecipe.parse(text).needs_calibration} == {
        "int8",
        "int8-full",
        "int8+per-tensor",
    }
