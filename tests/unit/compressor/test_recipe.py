"""A recipe's text form says all of it, and text that is no recipe is answered with what it should be."""

import itertools

import pytest

from compressor import CompressionRecipe, Precision, RecipeError, WeightScales
from compressor.recipe import distill, float16, float32, int4_dynamic, int8, int8_dynamic, int8_full, keep, prune, qat

TEXTS = [
    "float32",
    "float16",
    "int8-dynamic",
    "int4-dynamic",
    "int8",
    "int8-full",
    "int8-dynamic+per-tensor",
    "int8+per-tensor",
    "distill(64,64)+prune(0.5)+qat+int8-dynamic",
    "prune(0.125)+float16",
    "qat+int8+per-tensor+keep(torso[1],logits)",
    "distill(32)+int8-full+keep(memory)",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_becomes_a_recipe_and_the_same_text_again(text: str):
    assert text == str(CompressionRecipe.parse(text))


def test_every_recipe_that_can_be_made_is_read_back_as_itself():
    made = 0
    for student, pruned, trained, precision, scales, kept in itertools.product(
        ((), (8,), (64, 32)), (0.0, 0.3), (False, True), Precision, WeightScales, ((), ("torso[0]", "value"))
    ):
        try:
            recipe = CompressionRecipe(precision, scales, student, pruned, trained, kept)
        except RecipeError:
            continue
        made += 1
        assert CompressionRecipe.parse(str(recipe)) == recipe
    assert made == 6 * (2 * 1 + 1 * 2 + 2 * 2 * 2 * 2 + 2 * 2)  # float; int4; int8-dynamic and int8; int8-full


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (float32(), "float32"),
        (float16(), "float16"),
        (int8_dynamic(), "int8-dynamic"),
        (int8_dynamic(per_tensor=True), "int8-dynamic+per-tensor"),
        (int4_dynamic(), "int4-dynamic"),
        (int8(), "int8"),
        (int8_full(), "int8-full"),
        (keep(qat(prune(distill(int8(), 64, 64), 0.5)), "logits"), "distill(64,64)+prune(0.5)+qat+int8+keep(logits)"),
    ],
)
def test_functions_make_what_the_text_says(made: CompressionRecipe, text: str):
    assert made == CompressionRecipe.parse(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("int8-dyn", "no step is called 'int8-dyn': did you mean 'int8-dynamic'"),
        ("fp16", "did you mean 'float16'"),
        ("FLOAT32", "did you mean 'float32'"),
        ("distil(4)+int8", "did you mean 'distill'"),
        ("", "no step is called ''"),
        ("int8+", "no step is called ''"),
        ("distill(64,64)", "does not say how weights are stored: add float32"),
        ("int8+float32", "float32 in the wrong place, or twice"),
        ("int8+int8", "int8 in the wrong place, or twice"),
        ("int8+qat", "has qat in the wrong place, or twice: the order is distill, prune, qat"),
        ("prune(0.5)+distill(64)+int8", r"has distill\(64\) in the wrong place"),
        ("prune(0.5)+prune(0.5)+int8", r"has prune\(0.5\) in the wrong place, or twice"),
        ("prune(half)+int8", r"'prune\(half\)' cannot be read: write it like prune\(0.5\)"),
        ("prune(0.1,0.2)+int8", "cannot be read"),
        ("prune(0)+int8", "cannot be read"),
        ("prune+int8", "cannot be read"),
        ("distill(64+int8", "cannot be read"),
        ("distill()+int8", "cannot be read"),
        ("distill(6.5)+int8", "cannot be read"),
        ("qat(3)+int8", "cannot be read: write it like qat"),
        ("distill(64,0)+int8", "has a layer without units"),
        ("prune(1)+int8", "leaves an empty layer: give a share between 0 and 1"),
        ("prune(nan)+int8", "leaves an empty layer"),
        ("prune(-0.5)+int8", "leaves an empty layer"),
        ("qat+float16", "qat has nothing to learn for float16"),
        ("qat+int4-dynamic", "qat has nothing to learn for int4-dynamic"),
        ("float32+per-tensor", "float32 has no scales that could be per-tensor"),
        ("int8-full+per-tensor", "int8-full has no scales"),
        ("float16+keep(logits)", "float16 has none: leave it out"),
        ("int8+keep(logits,logits)", "names a layer twice"),
    ],
)
def test_what_is_no_recipe_is_refused_with_what_to_write(text: str, sentence: str):
    with pytest.raises(RecipeError, match=sentence):
        CompressionRecipe.parse(text)


def test_static_int8_needs_calibration_and_nothing_else_does():
    calibrated = {text for text in TEXTS if CompressionRecipe.parse(text).needs_calibration}
    assert {CompressionRecipe.parse(text).precision for text in calibrated} == {Precision.INT8, Precision.INT8_FULL}


def test_what_is_left_after_training_is_how_weights_are_stored():
    recipe = CompressionRecipe.parse("distill(64,64)+prune(0.5)+qat+int8+per-tensor+keep(logits)")
    assert recipe.needs_training
    assert str(recipe.storage) == "int8+per-tensor+keep(logits)"
    assert not recipe.storage.needs_training
