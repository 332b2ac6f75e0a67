"""The one codec: messages to msgpack and back, with limits, because payloads are untrusted (D9)."""

# msgpack ships no stubs; what it returns becomes a typed message at once.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from types import UnionType
from typing import Any, Final, TypeVar, overload

import msgpack  # pyright: ignore[reportMissingTypeStubs]
import msgspec

MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024
"""As large as a broker of ours lets pass; a whole policy or window fits many times."""
_MAX_ITEMS: Final = 65_536

MessageT = TypeVar("MessageT")


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What all messages share: frozen, fields by name, defaults left out on the wire."""


class BadMessage(ValueError):
    """A payload that is not what its topic carries: says what was expected and what came."""


def encode(message: msgspec.Struct) -> bytes:
    """Encode a message as msgpack."""
    return msgspec.msgpack.encode(message)


@overload
def decode(payload: bytes, message_type: type[MessageT], *, max_bytes: int = MAX_MESSAGE_BYTES) -> MessageT: ...


@overload
def decode(payload: bytes, message_type: UnionType, *, max_bytes: int = MAX_MESSAGE_BYTES) -> Any: ...  # noqa: ANN401


def decode(payload: bytes, message_type: Any, *, max_bytes: int = MAX_MESSAGE_BYTES) -> Any:
    """Decode an untrusted payload.

    msgpack checks the structure (depth, and no length that exceeds the payload); msgspec checks the types.

    Args:
        payload: What came.
        message_type: What the topic carries: a message class, or a union of tagged ones.
        max_bytes: A longer payload is refused unread.

    Raises:
        BadMessage: The payload is too large, is not msgpack, or is not such a message.
    """
    if len(payload) > max_bytes:
        raise BadMessage(f"expected at most {max_bytes} bytes, got {len(payload)}")
    try:
        plain: object = msgpack.unpackb(
            payload,
            raw=False,
            strict_map_key=True,
            max_array_len=_MAX_ITEMS,
            max_map_len=_MAX_ITEMS,
            max_ext_len=0,
            max_bin_len=max_bytes,
            max_str_len=min(max_bytes, _MAX_ITEMS),
        )
    # msgpack raises ValueError for most broken input, its own classes for depth and missing bytes, and TypeError
    # or OverflowError from a few odd maps and ext types.
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise BadMessage(f"not msgpack within the limits: {error}") from error
    try:
        return msgspec.convert(plain, message_type)
    except (msgspec.ValidationError, UnicodeError, RecursionError) as error:
        raise BadMessage(f"not a {_name(message_type)}: {error}") from error


def _name(message_type: object) -> str:
    return getattr(message_type, "__name__", str(message_type))
