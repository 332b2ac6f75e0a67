"""A row of blocks from an observation to features: how they are named, run and checked."""

from collections.abc import Iterator
from functools import partial

from compressor.layer import Block, Observe, Shape, UnsupportedPolicyError, check_block, unobserved
from compressor.windows import FloatArray

Tower = tuple[Block, ...]


def named_blocks(name: str, tower: Tower) -> Iterator[tuple[str, Block]]:
    """Yield each block with the name that errors, ranges and tensors use."""
    return ((f"{name}[{index}]", block) for index, block in enumerate(tower))


def run_tower(name: str, tower: Tower, inputs: FloatArray, observe: Observe = unobserved) -> FloatArray:
    """Run blocks one after another, and show every result to `observe` under its name."""
    for block_name, block in named_blocks(name, tower):
        inputs = block.forward(inputs, partial(_observe_part, observe, block_name))
        observe(block_name, inputs)
    return inputs


def check_tower(name: str, tower: Tower, shape: Shape) -> int:
    """Refuse a tower that cannot be run on observations of this shape; return how many features it gives.

    Raises:
        InvalidPolicyError: an array is wrong, or shapes do not chain.
        UnsupportedPolicyError: the tower holds an unknown block, or gives an image.
    """
    for block_name, block in named_blocks(name, tower):
        check_block(block_name, block)
        shape = block.output_shape(block_name, shape)
    features, *rest = shape
    if rest:
        raise UnsupportedPolicyError(f"{name} ends with an image {list(shape)}: put Flatten where vectors begin")
    return features


def _observe_part(observe: Observe, block: str, part: str, values: FloatArray) -> None:
    observe(f"{block}.{part}", values)
