"""Somebody's own torch module as a policy file, through litert-torch. Read `compressor.conversion.conversion` first."""

from compressor.conversion.conversion import ConvertedModule, convert_module
from compressor.conversion.litert import MissingConverterError

__all__ = ["ConvertedModule", "MissingConverterError", "convert_module"]
