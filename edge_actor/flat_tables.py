"""Read a flatbuffer's tables without a schema library.

Tables are found by offsets, and every one of them may be a lie: reading stays inside the bytes, or raises
`BrokenTables`. A table is the position of its first byte; a field is a slot of its vtable.
"""

import struct
from typing import Final, Literal

_FORMATS: Final = {"int8": "<b", "uint8": "<B", "int32": "<i", "uint32": "<I"}

Kind = Literal["int8", "uint8", "int32", "uint32"]


class BrokenTables(ValueError):
    """An offset or a size points out of the file, or there is more of something than a file of ours has."""


class FlatTables:
    """The tables of one file.

    Args:
        data: The whole file.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data

    def root(self) -> int:
        """The table that the file begins with."""
        return self._follow(0)

    def slots(self, table: int) -> set[int]:
        """Which fields a table has."""
        vtable, size = self._vtable(table)
        return {slot for slot in range((size - 4) // 2) if self._read("<H", vtable + 4 + 2 * slot)}

    def number(self, table: int, slot: int, kind: Kind, default: int = 0) -> int:
        """A field that is an integer."""
        position = self._field(table, slot)
        return self._read(_FORMATS[kind], position) if position else default

    def table(self, table: int, slot: int) -> int | None:
        """A field that is a table."""
        position = self._field(table, slot)
        return self._follow(position) if position else None

    def tables(self, table: int, slot: int, *, at_most: int) -> list[int]:
        """A field that is a vector of tables; empty where it is not there.

        Raises:
            BrokenTables: It has more entries than `at_most`, or they cannot all be in the file.
        """
        position = self._field(table, slot)
        if not position:
            return []
        vector = self._follow(position)
        count = self._read("<I", vector)
        if count > at_most:
            raise BrokenTables(f"expected at most {at_most} tables in a vector, got {count}")
        return [self._follow(vector + 4 + 4 * entry) for entry in range(count)]

    def content(self, table: int, slot: int) -> memoryview:
        """A field that is a vector of bytes, or a text."""
        return self.vector(table, slot, item_bytes=1)

    def vector(self, table: int, slot: int, *, item_bytes: int) -> memoryview:
        """A field that is a vector of numbers, as bytes."""
        position = self._field(table, slot)
        if not position:
            return memoryview(b"")
        start = self._follow(position) + 4
        end = start + item_bytes * self._read("<I", start - 4)
        if end > len(self._data):
            raise BrokenTables(f"a vector ends at {end}, and the file at {len(self._data)}")
        return memoryview(self._data)[start:end]

    def _field(self, table: int, slot: int) -> int:
        """Position of a field's value, or 0 where the table does not have it."""
        vtable, size = self._vtable(table)
        entry = 4 + 2 * slot
        offset = self._read("<H", vtable + entry) if entry + 2 <= size else 0
        return table + offset if offset else 0

    def _vtable(self, table: int) -> tuple[int, int]:
        vtable = table - self._read("<i", table)
        return vtable, self._read("<H", vtable)

    def _follow(self, position: int) -> int:
        return position + self._read("<I", position)

    def _read(self, form: str, position: int) -> int:
        if position < 0:
            raise BrokenTables(f"a table lies {-position} bytes before the file")
        try:
            return struct.unpack_from(form, self._data, position)[0]
        except struct.error as error:
            raise BrokenTables(f"byte {position} is asked for, and the file ends at {len(self._data)}") from error
