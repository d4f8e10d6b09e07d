"""The vocabulary: every message survives its journey, and nonsense does not."""

from __future__ import annotations

import contextlib
from typing import get_type_hints

import msgspec
import msgspec.structs
import pytest
from edgecache.protocol import messages
from edgecache.protocol.errors import RemoteProtocolError
from edgecache.protocol.frames import HEAD_BYTES_MAX
from edgecache.protocol.messages import (
    ANSWERS,
    DID_NOT_FIT,
    ENCODERS_MAX,
    KEYS_MAX,
    MESSAGES,
    NOT_HERE,
    REQUESTS,
    WITH_BLOB,
    ZSTD,
    Ack,
    AllRemoved,
    Await,
    Batch,
    BatchGet,
    Begun,
    Cancel,
    Claim,
    CurrentVersion,
    Difference,
    Done,
    Encoder,
    Forget,
    Found,
    Get,
    GetKeys,
    GetState,
    Granted,
    Has,
    Held,
    Hello,
    Keys,
    Leased,
    Leave,
    Like,
    Member,
    Message,
    Missing,
    Pace,
    Ping,
    Put,
    Refused,
    Release,
    Remove,
    RemovedPart,
    RemovedSums,
    State,
    decode,
    encode,
)
from hypothesis import given
from hypothesis import strategies as st

HELLO = Hello(1, "home", "0a" * 16, "0b" * 16, "Küche", "192.168.0.7", 7441, "fe80::1%eth0", 7440, 2**30, ZSTD)
EXAMPLES: list[Message] = [
    HELLO,
    Refused("no room"),
    Cancel(),
    Pace(12_500_000),
    Get(bytes(64), 250, Begun(2**20, bytes(16)), Like(bytes(64), bytes(16))),
    Found(2**20),
    Missing(),
    BatchGet([bytes(64), b"\xff" * 64], 2000),
    Batch([151_000, NOT_HERE, DID_NOT_FIT]),
    Has([bytes(64)], 5),
    Held(b"\x01\x00"),
    Put(60),
    Forget([bytes(64), bytes(32)], [bytes(32)]),
    Done(3),
    Remove([bytes(64), bytes(32)], 7),
    AllRemoved(3, 2**53),
    Claim(bytes(64), 60, 6, Begun(1, bytes(16)), Like(bytes(64), bytes(16))),
    Granted(120),
    Leased(45),
    Await(bytes(64), 50),
    Release(bytes(64)),
    Difference(),
    Ping(bytes(16), 2**40),
    Ack(bytes(16), 0),
    GetState(),
    State(
        [Member("0a" * 16, "0b" * 16, "Flur", "10.0.0.1", 7441)],
        [Encoder("edgecache/tiny", "1", bytes(32))],
        [CurrentVersion("edgecache/tiny", "1", 7)],
    ),
    Leave(),
    RemovedSums(bytes(512)),
    RemovedPart(63, [bytes(32)], [7], [86_400]),
    GetKeys(2**62),
    Keys(0, 2**62 + 1, 50_000, 0),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_said(message: Message) -> None:
    assert decode(message.kind, encode(message)) == message
    assert decode(message.kind, memoryview(encode(message))) == message


def test_every_message_has_an_example_and_its_own_number() -> None:
    assert {type(example) for example in EXAMPLES} == set(MESSAGES.values())
    assert len(EXAMPLES) == len(MESSAGES)
    assert 0 not in MESSAGES  # DATA
    assert max(MESSAGES) < 256


def test_a_message_is_a_request_or_an_answer_or_neither() -> None:
    assert {State.kind, RemovedSums.kind, RemovedPart.kind} == REQUESTS & ANSWERS  # told, or answered in kind
    assert set(MESSAGES) - REQUESTS - ANSWERS == {Hello.kind, Cancel.kind, Pace.kind}
    assert {Found.kind, Difference.kind, Batch.kind, Put.kind, Keys.kind} == WITH_BLOB


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_later_protocol_may_add_fields_at_the_end(message: Message) -> None:
    fields = msgspec.msgpack.decode(encode(message))
    longer = msgspec.msgpack.encode([*fields, "new", {"in": [2030]}])
    assert decode(message.kind, longer) == message


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_that_lacks_a_field_is_refused(message: Message) -> None:
    fields = msgspec.msgpack.decode(encode(message))
    required = sum(field.required for field in msgspec.structs.fields(message))
    assert type(decode(message.kind, msgspec.msgpack.encode(fields[:required]))) is type(
        message
    )  # as older peers say it
    if required:
        with pytest.raises(RemoteProtocolError, match=f"{type(message).__name__} that does not decode"):
            decode(message.kind, msgspec.msgpack.encode(fields[: required - 1]))


@given(st.sampled_from(sorted(MESSAGES)), st.binary(max_size=80))
def test_garbage_is_refused_or_is_a_message(kind: int, head: bytes) -> None:
    try:
        message = decode(kind, head)
    except RemoteProtocolError:
        return
    assert type(message) is MESSAGES[kind]


@given(st.sampled_from(EXAMPLES), st.data())
def test_damage_is_refused_or_is_a_message(message: Message, data: st.DataObject) -> None:
    head = bytearray(encode(message))
    head[data.draw(st.integers(0, len(head) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RemoteProtocolError):
        decode(message.kind, bytes(head))


@pytest.mark.parametrize(
    "head",
    [
        b"\xdd\xff\xff\xff\xff",  # a list of 4294967295
        b"\x91\xdd\xff\xff\xff\xff",
        b"\x91\xc6\xff\xff\xff\xff",  # bytes of 4294967295
        b"\x91" * 60_000,  # lists in lists
        b"\x92\x90" + b"\x91" * 60_000,  # the same where an unknown field would be
        b"\x92\x90" + b"\x81\xa1a" * 20_000,
        b"\x91\xc1",
        b"",
        b"(lp0\nS'a pickle'\np1\na.",
    ],
    ids=range(9),
)
@pytest.mark.parametrize("kind", sorted(MESSAGES))
def test_hostile_heads_are_refused_at_once(kind: int, head: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="that does not decode"):
        decode(kind, head)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""},
        {"id": "x" * 65},
        {"id": "a\nb"},
        {"id": "ä"},
        {"boot": ""},
        {"boot": "b\0"},
        {"name": "x" * 256},
        {"cluster": "x" * 256},
        {"peer_host": "x" * 256},
        {"peer_host": "a\0b"},
        {"peer_host": "a b\n"},
        {"http_host": "a\r\nSet-Cookie: b"},
        {"peer_port": -1},
        {"peer_port": 65536},
        {"http_port": 2**63},
        {"capacity_bytes": -1},
        {"protocol": "1"},
    ],
    ids=str,
)
def test_a_hello_that_could_do_harm_in_a_table_or_a_log_is_refused(changes: dict[str, object]) -> None:
    told = msgspec.structs.asdict(HELLO) | changes
    with pytest.raises(RemoteProtocolError, match="Hello that does not decode"):
        decode(Hello.kind, msgspec.msgpack.encode(list(told.values())))


def test_text_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="Refused that does not decode"):
        decode(Refused.kind, b"\x91\xa2\xff\xfe")


def test_the_longest_lists_fit_a_head() -> None:
    keys = [b"\xff" * 64] * KEYS_MAX
    name, version = "n" * 200, "v" * 64
    longest: list[Message] = [
        BatchGet(keys),
        Has(keys),
        Forget(keys),
        Batch([2**40] * KEYS_MAX),
        Held(bytes(KEYS_MAX)),
        State(
            [],
            [Encoder(name, version, bytes(32))] * ENCODERS_MAX,
            [CurrentVersion(name, version, 2**53)] * ENCODERS_MAX,
        ),
    ]
    for message in longest:
        assert len(encode(message)) <= HEAD_BYTES_MAX, type(message).__name__


def test_every_text_in_a_hello_and_a_member_has_a_limit() -> None:
    schema = str(msgspec.json.schema_components([Hello, Member])[1])
    texts = [name for kind in (Hello, Member) for name, hint in get_type_hints(kind).items() if hint is str]
    assert schema.count("maxLength") == len(texts)


def test_messages_are_values() -> None:
    assert Get(b"a") == Get(b"a") != Get(b"b")
    with pytest.raises(AttributeError):
        Get(b"a").key = b"b"  # type: ignore[misc]
    assert messages.PROTOCOL_VERSION == 1
