"""Write tables and vectors into a flatbuffer: the one place that calls `flatbuffers.Builder`.

A flatbuffer grows from its end: whatever a table points to is written before the table. Every method returns
the offset by which a later table refers to what it wrote.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from flatbuffers import Builder

from compressor.tflite_writer.schema import BUFFER_ALIGNMENT, Field

_OFFSET_BYTES = 4


class FlatbufferWriter:
    """Tables, vectors, texts and aligned data, each written in one call."""

    def __init__(self, *, capacity_bytes: int) -> None:
        self._builder = Builder(capacity_bytes)

    def table(self, fields: Mapping[Field, int]) -> int:
        """Write a table; a value of 0 is every field's default and takes no space."""
        self._builder.StartObject(1 + max((field.slot for field in fields), default=-1))
        for field, value in fields.items():
            field.put(self._builder, field.slot, value, 0)
        return self._builder.EndObject()

    def tables(self, offsets: Sequence[int]) -> int:
        """Write a vector of the tables at these offsets."""
        self._builder.StartVector(_OFFSET_BYTES, len(offsets), _OFFSET_BYTES)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return self._builder.EndVector()

    def numbers(self, values: npt.NDArray[np.generic]) -> int:
        """Write a vector of the numbers in a one-dimensional array, in its dtype."""
        return self._builder.CreateNumpyVector(values)

    def integers(self, values: Sequence[int]) -> int:
        """Write a vector of int32."""
        return self.numbers(np.array(values, np.int32))

    def text(self, text: str) -> int:
        """Write a string, once however often it is asked for."""
        return self._builder.CreateSharedString(text)

    def data(self, payload: bytes) -> int:
        """Write bytes whose first lies on the boundary that weights need."""
        self._builder.Prep(BUFFER_ALIGNMENT, len(payload))
        return self._builder.CreateByteVector(payload)

    def finish(self, root: int, *, identifier: bytes) -> bytes:
        """Close the file on its root table and return it."""
        self._builder.Finish(root, file_identifier=identifier)
        return bytes(self._builder.Output())
