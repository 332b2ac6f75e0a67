"""Read the policy's own description out of a `.tflite` file."""

import json
from typing import Any, Final, cast

from edge_actor.flat_tables import BrokenTables, FlatTables

IDENTIFIER: Final = b"TFL3"
_MODEL_BUFFERS: Final = 4
_MODEL_METADATA: Final = 6
_METADATA_NAME: Final = 0
_METADATA_BUFFER: Final = 1
_BUFFER_DATA: Final = 0
_METADATA_KEY: Final = b"edgerl.policy"
_MOST_BUFFERS: Final = 4096


class BadPolicyFile(ValueError):
    """A file that is no policy for this board: says what was expected; `reason` is the name it is counted under."""

    def __init__(self, sentence: str, *, reason: str = "file") -> None:
        super().__init__(sentence)
        self.reason = reason


def read_metadata(model: bytes) -> dict[str, Any]:
    """Return the JSON object that the file carries under `edgerl.policy`.

    Raises:
        BadPolicyFile: It is not a TFLite file, or carries no such object.
    """
    if model[4:8] != IDENTIFIER:
        raise BadPolicyFile("not a TFLite file: the identifier TFL3 is missing")
    try:
        metadata: object = json.loads(_find_metadata(FlatTables(model)))
    except BrokenTables as error:
        raise BadPolicyFile(f"the file's tables are broken or point outside of it: {error}") from error
    except (ValueError, RecursionError) as error:
        raise BadPolicyFile(f"the file's metadata is not JSON: {error}", reason="metadata") from error
    if not isinstance(metadata, dict):
        raise BadPolicyFile("the file's metadata is not a JSON object", reason="metadata")
    return cast("dict[str, Any]", metadata)


def _find_metadata(tables: FlatTables) -> bytes:
    root = tables.root()
    buffers = tables.tables(root, _MODEL_BUFFERS, at_most=_MOST_BUFFERS)
    for entry in tables.tables(root, _MODEL_METADATA, at_most=_MOST_BUFFERS):
        if tables.content(entry, _METADATA_NAME).tobytes() == _METADATA_KEY:
            index = tables.number(entry, _METADATA_BUFFER, "uint32")
            if index >= len(buffers):
                raise BrokenTables(f"buffer {index} is asked for, and there are {len(buffers)}")
            return bytes(tables.content(buffers[index], _BUFFER_DATA))
    raise BadPolicyFile(
        f"the file carries no {_METADATA_KEY.decode()} metadata: it is not a policy of ours", reason="metadata"
    )
