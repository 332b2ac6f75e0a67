"""`compress` hands over the file with its checksum, quickly enough to publish every second."""

import hashlib

import pytest
from policy_factories import make_observations, make_policy

from compressor import CompressionRecipe, Precision, compress


@pytest.mark.parametrize("precision", list(Precision))
def test_a_compressed_policy_carries_its_checksum_and_precision(precision):
    graph = make_policy()
    policy = compress(graph, CompressionRecipe(precision), metadata={}, calibration=make_observations(graph))
    assert hashlib.sha256(policy.model).hexdigest() == policy.sha256
    assert precision == policy.recipe.precision
    assert 0 < policy.export_ms < 1000


def test_a_recipe_says_all_that_compress_needs():
    recipe = CompressionRecipe.parse("int8-dynamic+per-tensor")
    graph = make_policy()
    per_tensor = compress(graph, recipe, metadata={})
    assert len(per_tensor.model) < len(compress(graph, CompressionRecipe(recipe.precision), metadata={}).model)
