"""Quotes of SGX through Gramine's files, which all threads share."""

import errno
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.enclave.attesters.stand_ins import Gramine, claims, refused

from aigovtool.attestation.attester import Attester
from aigovtool.attestation.model import TeeType
from aigovtool.enclave.attesters import gramine
from aigovtool.enclave.attesters.gramine import GramineAttester
from aigovtool.errors import ConfigurationError, EvidenceError


def reason(files: Gramine, **other: Any) -> str | None:
    with pytest.raises((EvidenceError, ConfigurationError)) as caught:
        GramineAttester(attributes=files, **other).attest(claims())
    return caught.value.reason


def test_a_quote_is_asked_for_as_gramine_says() -> None:
    """The type first, 64 bytes in one write, then the quote, which travels alone."""
    files = Gramine()
    port: Attester = GramineAttester(attributes=files)
    evidence = port.attest(claims())
    assert port.tee is TeeType.SGX
    assert (evidence.tee, evidence.endorsements) == (TeeType.SGX, ())
    assert evidence.data[368:432] == claims().report_data()
    assert files.calls == [("read", "attestation_type"), ("write", "user_report_data"), ("read", "quote")]


@pytest.mark.parametrize("kind", ["none", "epid", "", "dcap2"])
def test_an_enclave_without_dcap_is_told_what_to_change(kind: str) -> None:
    """Nothing is written where no quote of the right kind can come."""
    files = Gramine(kind=kind)
    assert reason(files) == "attester_no_quotes"
    assert files.calls == [("read", "attestation_type")]


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        ("attestation_type", errno.ENOENT, "attester_absent"),
        ("attestation_type", errno.EACCES, "attester_permission"),
        ("user_report_data", errno.EINVAL, "attester_failed"),
        ("quote", errno.EPERM, "attester_permission"),
        ("quote", errno.EIO, "attester_failed"),
        ("quote", errno.EBUSY, "attester_busy"),
    ],
)
def test_each_refusal_has_its_reason(name: str, number: int, expected: str) -> None:
    """The lock is free again after each."""

    def fail(operation: str, path: Path) -> None:
        if operation and path.name == name:
            raise refused(number, path)

    assert reason(Gramine(before=fail)) == expected
    GramineAttester(attributes=Gramine(), lock_timeout_s=0.0).attest(claims())


def test_a_quote_about_other_data_is_refused() -> None:
    """A thread that goes past our lock is noticed; so is an empty answer, and one that is too large."""
    assert reason(Gramine(quote=lambda data: bytes(4600))) == "attester_other_report"
    assert reason(Gramine(quote=lambda data: b"")) == "attester_other_report"
    assert reason(Gramine(quote=lambda data: data + bytes(192 << 10))) == "attester_too_large"


def test_threads_do_not_get_each_others_quotes() -> None:
    """Eight threads with claims of their own, through attesters of their own: every quote is about the right ones."""
    files, wrong = Gramine(), list[int]()
    turn = threading.Barrier(8)

    def slowly(operation: str, path: Path) -> None:
        if operation == "write" or path.name == "quote":
            time.sleep(0.001)

    files.before = slowly

    def work(index: int) -> None:
        turn.wait()
        for round_ in range(5):
            mine = claims(nonce=f"{index:032x}{round_:032x}")
            evidence = GramineAttester(attributes=files).attest(mine)
            if mine.report_data() not in evidence.data:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert files.calls[::3] == [("read", "attestation_type")] * 40


def test_waiting_for_another_thread_is_bounded() -> None:
    """A thread that never comes back does not take the others with it."""
    with gramine._LOCK:
        assert reason(Gramine(), lock_timeout_s=0.01) == "attester_busy"
