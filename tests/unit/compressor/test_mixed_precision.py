"""Mixed precision: the layer that hurts is found, and kept in float32 until the floor holds."""

from functools import partial

import numpy as np
import pytest
from policy_factories import make_observations, make_policy

from compressor import CompressionRecipe, RecipeError, compress, measure_fidelity
from compressor.mixed_precision import FloorNotReached, keep_until, measure_sensitivities

RECIPE = CompressionRecipe.parse("int8-dynamic+per-tensor")


@pytest.fixture
def policy():
    """A policy in whose second layer one weight is so large that all others are rounded away."""
    graph = make_policy(features=16, width=64, actions=32)
    graph.torso[1].weight[0, 0] = 60
    return graph


@pytest.fixture
def judge(policy):
    return partial(measure_fidelity, policy, observations=make_observations(policy, 300))


def test_the_layer_that_hurts_most_comes_first(policy, judge):
    found = measure_sensitivities(policy, RECIPE, judge)
    assert found[0].layer == "torso[1]"
    assert {each.layer for each in found} == {"torso[0]", "torso[1]", "logits"}
    assert found[0].kl_mean > 10 * found[1].kl_mean
    assert found[0].agreement < found[1].agreement
    whole = compress(policy, RECIPE, metadata={}).model
    exact = compress(
        policy, CompressionRecipe.parse("int8-dynamic+per-tensor+keep(torso[0],torso[1],logits)"), metadata={}
    )
    assert sum(each.bytes_saved for each in found) == pytest.approx(len(exact.model) - len(whole), rel=0.05)


def test_layers_are_kept_until_the_floor_holds_and_no_longer(policy, judge):
    found = measure_sensitivities(policy, RECIPE, judge)
    recipe, kept = keep_until(policy, RECIPE, judge, floor=0.9, sensitivities=found)
    assert [each.layer for each in kept] == ["torso[1]"] == list(recipe.kept)
    assert kept[0].agreement >= 0.9 > judge(compress(policy, RECIPE, metadata={}).model).agreement
    assert kept[0].bytes_paid > 64 * 64 * 2
    assert keep_until(policy, RECIPE, judge, floor=0.0, sensitivities=found) == (RECIPE, [])


def test_a_floor_that_is_out_of_reach_and_a_recipe_that_rounds_nothing_are_refused(policy, judge):
    found = measure_sensitivities(policy, RECIPE, judge)
    with pytest.raises(FloorNotReached, match=r"with every layer .* lower the floor of 110.00%"):
        keep_until(policy, RECIPE, judge, floor=1.1, sensitivities=found)
    with pytest.raises(RecipeError, match="float16 rounds no layer"):
        measure_sensitivities(policy, CompressionRecipe.parse("float16"), judge)


def test_what_the_recipe_keeps_already_is_not_tried(policy, judge):
    found = measure_sensitivities(policy, CompressionRecipe.parse("int8-dynamic+keep(torso[1])"), judge)
    assert {each.layer for each in found} == {"torso[0]", "logits"}
    assert np.all([each.agreement > 0.9 for each in found])
