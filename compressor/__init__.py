"""Make policies small: a policy in, a `.tflite` that is the whole policy out, and a report of what it cost.

Read `compressor.pipeline` first.
"""

from compressor.fidelity import FidelityReport, HeadError, MissingRuntimeError, measure_fidelity
from compressor.layer import Activation, InvalidPolicyError, Layer, UnsupportedPolicyError
from compressor.pipeline import CompressedPolicy, compress
from compressor.policy_graph import OBSERVATION_CLIP, PolicyGraph
from compressor.recipe import CompressionRecipe, Precision, UnknownRecipeError, WeightScales

__all__ = [
    "OBSERVATION_CLIP",
    "Activation",
    "CompressedPolicy",
    "CompressionRecipe",
    "FidelityReport",
    "HeadError",
    "InvalidPolicyError",
    "Layer",
    "MissingRuntimeError",
    "PolicyGraph",
    "Precision",
    "UnknownRecipeError",
    "UnsupportedPolicyError",
    "WeightScales",
    "compress",
    "measure_fidelity",
]
