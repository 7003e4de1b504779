"""A custodian, or a thief of its TLS key, that answers with little that becomes much, or with a byte now and then."""

import gzip
import time
import tracemalloc

import pytest
from tests.operator.conftest import FakeCustodian

from aigovtool.errors import FaultError, UnreachableError
from aigovtool.operator import connection
from aigovtool.operator.client import OperatorClient
from aigovtool.operator.witness import LogWitness

MIB = 1 << 20


def packed(body: bytes, encoding: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: {encoding}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def test_a_packed_answer_is_refused_unread(custodian: FakeCustodian) -> None:
    """Packed twice, a hundred kilobytes become gigabytes: a witness of a hostile custodian would end by them."""
    once = gzip.compress(bytes(256 * MIB), 9)
    custodian.script.answers = [packed(gzip.compress(once), "gzip, gzip")]
    with LogWitness(custodian.address, pause=lambda _: None) as witness:
        tracemalloc.start()
        try:
            with pytest.raises(FaultError) as refused:
                witness.head()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert refused.value.reason == "bad_answer"
    assert peak < 8 * MIB


def test_an_answer_of_another_kind_is_refused_before_it_is_parsed(custodian: FakeCustodian) -> None:
    """Thirty-two megabytes of empty lists took a witness or an operator more than a gigabyte, and half a minute."""
    lists = b"[" + b"[[]]," * (2 * MIB // 5) + b"[[]]]"
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(lists)}\r\n\r\n"
    custodian.script.answers = [head.encode() + lists]
    with LogWitness(custodian.address, pause=lambda _: None) as witness:
        tracemalloc.start()
        try:
            with pytest.raises(FaultError) as refused:
                witness.head()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert refused.value.reason == "bad_answer"
    assert peak < 12 * MIB


def test_an_answer_that_drips_does_not_hold_an_operator(
    custodian: FakeCustodian, client: OperatorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time, and the answer never: the whole of it has a time, too."""
    monkeypatch.setattr(connection, "_ANSWER_S", 1.0)
    custodian.drip = b"HTTP/1.1 200 OK\r\nx-drip: " + b"a" * 200
    custodian.script.answers = [None]
    began = time.monotonic()
    with pytest.raises(UnreachableError) as given_up:
        client.parties()
    assert "ReadTimeout" in given_up.value.message
    assert time.monotonic() - began < 8
