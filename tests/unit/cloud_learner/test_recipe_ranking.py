"""What is measured when, and what is made of it: candidates that are not faster than float32 never come before it."""

from collections import Counter

import pytest

from cloud_learner.recipe_ranking import RecipeRanking
from compressor import CompressionRecipe
from compressor.recipe import candidates, float32, int8, int8_dynamic, int8_full


def rank(times: dict[CompressionRecipe, list[float]], *, missing: tuple[CompressionRecipe, ...] = ()) -> RecipeRanking:
    """Measure until nothing is left to be; each figure of a recipe is used once, the last for ever."""
    ranking = RecipeRanking([*times, *missing])
    asked: Counter[CompressionRecipe] = Counter()
    while (recipe := ranking.next) is not None:
        if recipe in missing:
            ranking.drop()
            continue
        ranking.note(times[recipe][min(asked[recipe], len(times[recipe]) - 1)])
        asked[recipe] += 1
    return ranking


def test_the_fastest_comes_first_and_float32_last():
    ranking = rank({float32(): [10], int8_dynamic(): [3], int8(): [4], int8_full(): [2]})
    assert ranking.fastest_first() == [int8_full(), int8_dynamic(), int8(), float32()]


def test_what_is_slower_than_float32_is_not_in_it_and_not_measured_again():
    ranking = rank({float32(): [10], int8_dynamic(): [11], int8(): [9], int8_full(): [50]})
    assert ranking.fastest_first() == [int8(), float32()]
    assert [len(ranking.measured_us[recipe]) for recipe in candidates()] == [4, 1, 4, 1]


def test_where_nothing_is_faster_float32_is_not_measured_again():
    ranking = rank({float32(): [10], int8_dynamic(): [11]})
    assert ranking.fastest_first() == [float32()]
    assert len(ranking.measured_us[float32()]) == 1


def test_luck_at_first_counts_nothing_and_one_slow_run_neither():
    ranking = rank({float32(): [10, 10, 10, 10], int8_dynamic(): [1, 12, 11, 13], int8(): [9, 9, 100, 9]})
    assert ranking.fastest_first() == [int8(), float32()]


def test_the_first_run_is_not_among_the_fresh_ones():
    ranking = rank({float32(): [10], int8_dynamic(): [1, 9.8, 10.1, 10.2]})
    assert ranking.fastest_first() == [float32()]


def test_what_is_measured_anew_is_measured_in_turns():
    ranking, asked = RecipeRanking([float32(), int8_dynamic(), int8()]), []
    while (recipe := ranking.next) is not None:
        asked.append(recipe)
        ranking.note(5.0 if recipe == float32() else 1.0)
    assert asked == [float32(), int8_dynamic(), int8()] + [int8_dynamic(), int8(), float32()] * 3


@pytest.mark.parametrize("missing", [float32(), int8_dynamic()])
def test_a_recipe_that_does_not_run_there_is_done_without(missing: CompressionRecipe):
    times = {recipe: [5.0 if recipe == float32() else 1.0] for recipe in candidates()[:3] if recipe != missing}
    ranking = rank(times, missing=(missing,))
    assert ranking.fastest_first()[-1] == float32()
    assert (int8_dynamic() in ranking.fastest_first()) == (missing != int8_dynamic())


def test_without_a_float32_that_can_be_measured_all_others_are_faster():
    assert rank({int8_dynamic(): [2], int8(): [1]}).fastest_first() == [int8(), int8_dynamic(), float32()]


def test_one_that_stops_running_is_out():
    ranking = RecipeRanking([float32(), int8_dynamic()])
    for us in (5.0, 1.0, 1.0):
        ranking.note(us)
    while ranking.next is not None:
        ranking.drop() if ranking.next == int8_dynamic() else ranking.note(5.0)
    assert ranking.fastest_first() == [float32()]
