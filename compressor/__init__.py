"""Make policies small: a policy in, a `.tflite` that is the whole policy out, and a report of what it cost.

Read `compressor.pipeline` first.
"""

from compressor.calibration import CalibrationError
from compressor.divergence import HeadError
from compressor.fidelity import FidelityReport, measure_fidelity
from compressor.layer import (
    Activation,
    Block,
    Convolution,
    Flatten,
    InvalidPolicyError,
    Layer,
    MaxPool,
    Relu,
    Residual,
    UnsupportedPolicyError,
)
from compressor.memory import Gru, Lstm, Memory
from compressor.pipeline import CompressedPolicy, compress
from compressor.policy_graph import OBSERVATION_CLIP, Observations, PolicyGraph
from compressor.recipe import CompressionRecipe, Precision, RecipeError, WeightScales
from compressor.run_file import MissingRuntimeError

__all__ = [
    "OBSERVATION_CLIP",
    "Activation",
    "Block",
    "CalibrationError",
    "CompressedPolicy",
    "CompressionRecipe",
    "Convolution",
    "FidelityReport",
    "Flatten",
    "Gru",
    "HeadError",
    "InvalidPolicyError",
    "Layer",
    "Lstm",
    "MaxPool",
    "Memory",
    "MissingRuntimeError",
    "Observations",
    "PolicyGraph",
    "Precision",
    "RecipeError",
    "Relu",
    "Residual",
    "UnsupportedPolicyError",
    "WeightScales",
    "compress",
    "measure_fidelity",
]
