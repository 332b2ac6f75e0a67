"""`compress` hands over the file with its checksum, quickly enough to publish every second."""

import hashlib

import pytest
from policy_factories import make_observations, make_policy

from compressor import CompressionRecipe, Precision, compress


@pytest.mark.parametrize("precision", list(Precision))
def test_a_compressed_policy_carries_its_checksum_and_precision(precision):
    graph = make_policy()
    policy = compress(graph, precision=precision, metadata={}, calibration=make_observations(graph))
    assert hashlib.sha256(policy.model).hexdigest() == policy.sha256
    assert precision == policy.precision
    assert 0 < policy.export_ms < 1000


def test_a_recipe_says_all_that_compress_needs():
    recipe = CompressionRecipe.parse("int8-dynamic+per-tensor")
    graph = make_policy()
    per_tensor = compress(graph, precision=recipe.precision, weight_scales=recipe.weight_scales, metadata={})
    assert len(per_tensor.model) < len(compress(graph, precision=recipe.precision, metadata={}).model)
