"""Read the policy's own description out of a `.tflite` file, without a schema library.

A flatbuffer's tables are found by offsets, and every one of them may be a lie: reading stays inside the bytes, or says
that the file is broken.
"""

import json
import struct
from typing import Any, Final, cast

_IDENTIFIER: Final = b"TFL3"
_MODEL_BUFFERS: Final = 4
_MODEL_METADATA: Final = 6
_METADATA_NAME: Final = 0
_METADATA_BUFFER: Final = 1
_BUFFER_DATA: Final = 0
_METADATA_KEY: Final = b"edgerl.policy"


class BadPolicyFile(ValueError):
    """A file that is no policy of ours: says what is missing."""


def read_metadata(model: bytes) -> dict[str, Any]:
    """Return the JSON object that the file carries under `edgerl.policy`.

    Raises:
        BadPolicyFile: It is not a TFLite file, or carries no such object.
    """
    if model[4:8] != _IDENTIFIER:
        raise BadPolicyFile("not a TFLite file: the identifier TFL3 is missing")
    try:
        metadata: object = json.loads(_find_metadata(model))
    except (struct.error, IndexError) as error:
        raise BadPolicyFile("the file's tables point outside of it") from error
    except (ValueError, RecursionError) as error:
        raise BadPolicyFile(f"the file's metadata is not JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise BadPolicyFile("the file's metadata is not a JSON object")
    return cast("dict[str, Any]", metadata)


def _find_metadata(model: bytes) -> bytes:
    root = _indirect(model, 0)
    for entry in _tables(model, _field(model, root, _MODEL_METADATA)):
        if not _is_named(model, entry, _METADATA_KEY):
            continue
        position = _field(model, entry, _METADATA_BUFFER)
        index = _uint32(model, position) if position else 0
        buffer = _tables(model, _field(model, root, _MODEL_BUFFERS))[index]
        return _bytes(model, _field(model, buffer, _BUFFER_DATA))
    raise BadPolicyFile(f"the file carries no {_METADATA_KEY.decode()} metadata: it is not a policy of ours")


def _uint32(model: bytes, position: int) -> int:
    return struct.unpack_from("<I", model, position)[0]


def _indirect(model: bytes, position: int) -> int:
    return position + _uint32(model, position)


def _field(model: bytes, table: int, slot: int) -> int:
    """Position of a field's value, or 0 where the table does not have it."""
    vtable = table - struct.unpack_from("<i", model, table)[0]
    if vtable < 0:
        raise IndexError(vtable)
    size = struct.unpack_from("<H", model, vtable)[0]
    offset_at = 4 + 2 * slot
    if offset_at >= size:
        return 0
    offset = struct.unpack_from("<H", model, vtable + offset_at)[0]
    return table + offset if offset else 0


def _tables(model: bytes, position: int) -> list[int]:
    if position == 0:
        return []
    vector = _indirect(model, position)
    count = min(_uint32(model, vector), len(model) // 4)
    return [_indirect(model, vector + 4 + 4 * i) for i in range(count)]


def _is_named(model: bytes, entry: int, name: bytes) -> bool:
    # Many entries may share one huge name: its size is looked at before its bytes are.
    position = _field(model, entry, _METADATA_NAME)
    return position > 0 and _uint32(model, _indirect(model, position)) == len(name) and _bytes(model, position) == name


def _bytes(model: bytes, position: int) -> bytes:
    if position == 0:
        return b""
    vector = _indirect(model, position)
    size = _uint32(model, vector)
    if vector + 4 + size > len(model):
        raise IndexError(size)
    return model[vector + 4 : vector + 4 + size]
