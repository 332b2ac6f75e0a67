"""Every class of message, filled at random: it survives the wire, and nothing done to its bytes makes another error."""

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet_protocol import commands, messages
from fleet_protocol.codec import BadMessage, decode, encode
from fleet_protocol.messages import Ack, Message, TrajectoryMessage

CLASSES = [
    found
    for found in {**vars(messages), **vars(commands)}.values()
    if inspect.isclass(found) and issubclass(found, Message) and found is not Message
]
WRONG: dict[type[msgspec.inspect.Type], object] = {
    msgspec.inspect.IntType: "x",
    msgspec.inspect.FloatType: "x",
    msgspec.inspect.StrType: 7,
    msgspec.inspect.BytesType: 7,
    msgspec.inspect.ListType: 7,
    msgspec.inspect.VarTupleType: 7,
    msgspec.inspect.DictType: 7,
    msgspec.inspect.StructType: 7,
    msgspec.inspect.UnionType: b"x",
    msgspec.inspect.LiteralType: "something else",
}


VALUES: dict[type[msgspec.inspect.Type], Callable[[Any], st.SearchStrategy[Any]]] = {
    msgspec.inspect.NoneType: lambda _: st.none(),
    msgspec.inspect.BoolType: lambda _: st.booleans(),
    msgspec.inspect.IntType: lambda kind: st.integers(
        -(2**63) if kind.ge is None else kind.ge, 2**63 - 1 if kind.le is None else kind.le
    ),
    msgspec.inspect.FloatType: lambda kind: st.floats(kind.ge, kind.le, allow_nan=False),
    msgspec.inspect.StrType: lambda kind: st.text(
        st.characters(codec="utf-8"), min_size=kind.min_length or 0, max_size=63
    ),
    msgspec.inspect.BytesType: lambda kind: st.binary(min_size=kind.min_length or 0, max_size=kind.max_length or 64),
    msgspec.inspect.ListType: lambda kind: st.lists(
        values_of(kind.item_type), min_size=kind.min_length or 0, max_size=3
    ),
    msgspec.inspect.VarTupleType: lambda kind: st.lists(values_of(kind.item_type), max_size=3).map(tuple),
    msgspec.inspect.TupleType: lambda kind: st.tuples(*map(values_of, kind.item_types)),
    msgspec.inspect.DictType: lambda kind: st.dictionaries(
        values_of(kind.key_type), values_of(kind.value_type), max_size=3
    ),
    msgspec.inspect.UnionType: lambda kind: st.one_of(*map(values_of, kind.types)),
    msgspec.inspect.LiteralType: lambda kind: st.sampled_from(kind.values),
    msgspec.inspect.StructType: lambda kind: messages_of(kind.cls),
}


def values_of(kind: msgspec.inspect.Type) -> st.SearchStrategy[Any]:
    """All values of a msgspec type within its limits."""
    return VALUES[type(kind)](kind)


def messages_of(message_type: type) -> st.SearchStrategy[Any]:
    fields = fields_of(message_type)
    return st.builds(message_type, **{field.name: values_of(field.type) for field in fields})


def fields_of(message_type: type) -> tuple[msgspec.inspect.Field, ...]:
    info = msgspec.inspect.type_info(message_type)
    assert isinstance(info, msgspec.inspect.StructType)
    return info.fields


ANY_MESSAGE = st.sampled_from(CLASSES).flatmap(messages_of)
FIELDS = [(cls, field) for cls in CLASSES for field in fields_of(cls)]


@pytest.mark.parametrize("message_type", CLASSES, ids=lambda cls: cls.__name__)
def test_every_message_comes_back_as_it_went(message_type: type):
    @settings(max_examples=30)
    @given(messages_of(message_type))
    def check(message: Message) -> None:
        assert decode(encode(message), message_type) == message

    check()


@pytest.mark.parametrize(
    ("message_type", "field"), FIELDS, ids=lambda x: getattr(x, "name", getattr(x, "__name__", ""))
)
def test_a_field_of_another_type_is_a_bad_message_that_names_it(message_type: type, field: msgspec.inspect.Field):
    @settings(max_examples=1)
    @given(messages_of(message_type))
    def check(message: Message) -> None:
        plain = msgpack.unpackb(encode(message)) | {field.encode_name: WRONG[type(field.type)]}
        with pytest.raises(BadMessage, match=rf"not a {message_type.__name__}: .*\$\.{field.encode_name}"):
            decode(msgpack.packb(plain), message_type)

    check()


@given(ANY_MESSAGE)
def test_unknown_fields_are_ignored_in_every_message(message: Message):
    plain = msgpack.unpackb(encode(message), use_list=True) | {"of_a_newer_version": [1, {"x": None}]}
    assert decode(msgpack.packb(plain), type(message)) == message


@given(ANY_MESSAGE, st.data())
def test_a_message_cut_anywhere_is_a_bad_message(message: Message, data: st.DataObject):
    payload = encode(message)
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(BadMessage, match="not msgpack"):
        decode(payload[:cut], type(message))


@given(
    ANY_MESSAGE,
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 9), st.binary(max_size=9)), min_size=1, max_size=4),
)
def test_a_mutated_message_makes_a_message_or_a_bad_message(message: Message, edits: list[tuple[int, int, bytes]]):
    payload = encode(message)
    for position, removed, inserted in edits:
        at = position % (len(payload) + 1)
        payload = payload[:at] + inserted + payload[at + removed :]
    with suppress(BadMessage):
        assert isinstance(decode(payload, type(message)), Message)


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a"], ids=["arrays", "maps"])
@pytest.mark.parametrize("depth", [100, 511, 512, 1023, 1024, 1025, 100_000])
def test_nesting_of_any_depth_in_an_unknown_field_makes_a_message_or_a_bad_message(depth: int, opening: bytes):
    payload = b"\x83\xa7boot_id\xa1b\xa8finished\x90\xa1x" + opening * depth + b"\xc0"
    with suppress(BadMessage):
        assert decode(payload, Ack) == Ack(boot_id="b", finished=[])


@pytest.mark.parametrize(
    "inside",
    [
        b"\xd4\x01a",  # fixext
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xd6\xff\x00\x00\x00\x01",  # a timestamp
        b"\xd7\xff\xff\xff\xff\xff\xff\xff\xff\xff",  # one with too many nanoseconds
        b"\xc7\x0c\xff" + b"\xff" * 12,  # one before all time
        b"\xa2\xff\xfe",  # no UTF-8
        b"\xa3\xed\xa0\x80",  # half a surrogate pair
        b"\xdb\xff\xff\xff\xff",
        b"\xc1",
    ],
    ids=bytes.hex,
)
def test_what_no_message_holds_is_a_bad_message_even_in_an_unknown_field(inside: bytes):
    with pytest.raises(BadMessage, match="not msgpack"):
        decode(b"\x83\xa7boot_id\xa1b\xa8finished\x90\xa1x" + inside, Ack)


def test_an_empty_extension_is_no_value_of_a_field():
    with pytest.raises(BadMessage, match="boot_id"):
        decode(b"\x82\xa7boot_id\xc7\x00\x01\xa8finished\x90", Ack)


@pytest.mark.parametrize("key", [b"\x01", b"\xc0", b"\xc3", b"\xcb" + bytes(8), b"\x90", b"\x80"], ids=bytes.hex)
def test_a_key_that_is_no_string_is_a_bad_message(key: bytes):
    with pytest.raises(BadMessage, match="not msgpack"):
        decode(b"\x81" + key + b"\xc0", Ack)


def test_more_items_than_any_message_has_are_a_bad_message():
    assert len(decode(msgpack.packb({"boot_id": "b", "finished": [[1, 1]] * 65_536}), Ack).finished) == 65_536
    with pytest.raises(BadMessage, match="65537 exceeds"):
        decode(msgpack.packb({"boot_id": "b", "finished": [[1, 1]] * 65_537}), Ack)


def test_a_body_may_be_as_long_as_a_payload():
    message = TrajectoryMessage(run_id="r", board_id="b", boot_id="x", seq=0, oldest_seq=0, body=bytes(1_000_000))
    assert decode(encode(message), TrajectoryMessage) == message
    with pytest.raises(BadMessage, match="at most 1000000 bytes"):
        decode(encode(message), TrajectoryMessage, max_bytes=1_000_000)
