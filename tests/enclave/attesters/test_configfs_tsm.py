"""Reports of SEV-SNP and TDX through a kernel that counts writes, is busy, and has other users."""

import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.enclave.attesters.stand_ins import REPORTS, TsmKernel, claims, refused

from aigovtool.attestation.attester import Attester
from aigovtool.attestation.model import TeeType
from aigovtool.enclave.attesters.configfs_tsm import PAUSES_S, ConfigfsTsmAttester
from aigovtool.errors import AIGovToolError, ConfigurationError, EvidenceError

REPORT_DATA = claims().report_data()


def attester(kernel: TsmKernel, tee: TeeType = TeeType.SEV_SNP, **other: Any) -> ConfigfsTsmAttester:
    return ConfigfsTsmAttester(tee, attributes=kernel, **({"pause": lambda seconds: None} | other))


def tdx(**other: Any) -> TsmKernel:
    return TsmKernel(provider="tdx_guest", auxblob=None, floor=None, **other)


def reason(kernel: TsmKernel, tee: TeeType = TeeType.SEV_SNP, **other: Any) -> str | None:
    """Return why there is no evidence; nothing is left behind."""
    with pytest.raises((EvidenceError, ConfigurationError)) as caught:
        attester(kernel, tee, **other).attest(claims())
    assert kernel.entries == {}
    error: AIGovToolError = caught.value
    return error.reason


class Times:
    """Does something the first times that an operation is made on a file."""

    def __init__(self, operation: str, name: str, act: Callable[[Path], None], *, times: int = 1) -> None:
        self._where = (operation, name)
        self._act = act
        self.left = times

    def __call__(self, operation: str, path: Path) -> None:
        if (operation, path.name if path.parent != REPORTS else "entry") == self._where and self.left:
            self.left -= 1
            self._act(path)


def fails(number: int) -> Callable[[Path], None]:
    def fail(path: Path) -> None:
        raise refused(number, path)

    return fail


# -- What is asked, and what comes back ------------------------------------------------------------------------------


def test_a_report_of_sev_snp_is_asked_for_as_the_abi_says() -> None:
    """One directory, generation before and after, one write of 64 bytes, one read of each blob, and no trace."""
    kernel = TsmKernel()
    evidence = attester(kernel).attest(claims())
    assert evidence.tee is TeeType.SEV_SNP
    assert evidence.data[80:144] == REPORT_DATA
    assert evidence.endorsements == (b"table",)
    assert kernel.calls == [
        ("make", "entry"),
        ("read", "provider"),
        ("read", "generation"),
        ("read", "privlevel_floor"),
        ("write", "inblob"),
        ("read", "outblob"),
        ("read", "auxblob"),
        ("read", "generation"),
        ("remove", "entry"),
    ]
    assert kernel.entries == {}


def test_a_quote_of_tdx_travels_alone() -> None:
    """TDX has no certificate table and no privilege level; collateral is the verifier's business."""
    kernel = tdx()
    evidence = attester(kernel, TeeType.TDX).attest(claims())
    assert (evidence.tee, evidence.endorsements) == (TeeType.TDX, ())
    assert REPORT_DATA in evidence.data
    assert {name for _, name in kernel.calls} == {"entry", "provider", "generation", "inblob", "outblob"}


def test_attributes_that_old_kernels_show_to_tdx_are_left_alone() -> None:
    """Linux 6.7 shows every attribute to every platform; those of SEV-SNP are not touched for TDX."""
    kernel = TsmKernel(provider="tdx_guest", auxblob=b"", floor=0)
    assert attester(kernel, TeeType.TDX).attest(claims()).endorsements == ()
    assert not {"auxblob", "privlevel_floor", "privlevel"} & {name for _, name in kernel.calls}


@pytest.mark.parametrize("auxblob", [None, b""])
def test_a_missing_or_empty_certificate_table_is_no_endorsement(auxblob: bytes | None) -> None:
    """Hosts may give none; then whoever verifies finds the certificates."""
    assert attester(TsmKernel(auxblob=auxblob)).attest(claims()).endorsements == ()


@pytest.mark.parametrize(
    ("floor", "given", "used"), [(0, None, 0), (1, None, 1), (2, 3, 3), (0, 0, 0), (None, None, 0)]
)
def test_the_privilege_level_is_the_lowest_allowed_or_the_one_given(
    floor: int | None, given: int | None, used: int
) -> None:
    """A guest below a service module may not ask for level 0; each write of a level counts as one."""
    kernel = TsmKernel(floor=floor)
    assert attester(kernel, privlevel=given).attest(claims()).data[144] == used
    writes = [name for operation, name in kernel.calls if operation == "write"]
    assert writes == (["privlevel", "inblob"] if given is not None or floor else ["inblob"])


def test_a_level_below_the_floor_is_refused_by_the_kernel() -> None:
    """The kernel's refusal is no reason to ask again."""
    kernel = TsmKernel(floor=2)
    assert reason(kernel, privlevel=1) == "attester_failed"
    assert kernel.calls.count(("make", "entry")) == 1


@pytest.mark.parametrize(
    ("tee", "privlevel"),
    [
        (TeeType.SGX, None),
        (TeeType.NITRO, None),
        (TeeType.TPM, None),
        (TeeType.SIMULATED, None),
        (TeeType.SEV_SNP, -1),
        (TeeType.SEV_SNP, 4),
        (TeeType.TDX, 0),
    ],
)
def test_other_platforms_and_levels_are_refused_at_once(tee: TeeType, privlevel: int | None) -> None:
    """The constructor says so, not the first quote."""
    with pytest.raises(ConfigurationError) as caught:
        ConfigfsTsmAttester(tee, privlevel=privlevel)
    assert caught.value.reason == "attester_configuration"


def test_each_call_has_a_directory_of_its_own() -> None:
    """Names are not guessed or used again."""
    kernel, seen = TsmKernel(), set()
    kernel.before = lambda operation, path: seen.add(path.name) if operation == "make" else None
    port: Attester = attester(kernel)
    for _ in range(20):
        port.attest(claims())
    assert len(seen) == 20
    assert all(name.startswith("aigovtool-") and len(name) == 42 for name in seen)


# -- Others who write, kernels that are busy -------------------------------------------------------------------------


def other_writer(kernel: TsmKernel) -> Callable[[Path], None]:
    """Return what another process does: it writes its own data and takes the report."""

    def write(path: Path) -> None:
        entry = kernel.entries[path.parent.name]
        entry.inblob, entry.written = b"\xee" * 64, entry.written + 1

    return write


@pytest.mark.parametrize("moment", ["outblob", "auxblob"])
def test_a_race_is_seen_in_the_generation_and_asked_again(moment: str) -> None:
    """Another writer before our read gets its report to us; the count of writes tells, and a new directory helps."""
    kernel = TsmKernel()
    kernel.before = Times("read", moment, other_writer(kernel))
    assert attester(kernel).attest(claims()).data[80:144] == REPORT_DATA
    assert kernel.calls.count(("make", "entry")) == 2


def test_a_race_without_end_is_given_up() -> None:
    """Attempts are bounded, and their pauses grow to three seconds in all."""
    kernel, waited = TsmKernel(), list[float]()
    kernel.before = Times("read", "outblob", other_writer(kernel), times=99)
    assert reason(kernel, pause=waited.append) == "attester_raced"
    assert waited == list(PAUSES_S)
    assert sum(waited) <= 3.0
    assert kernel.calls.count(("make", "entry")) == len(PAUSES_S) + 1


def test_a_lost_write_is_seen_in_the_generation() -> None:
    """What is written counts when the file is closed, and an error then is lost: the count does not grow."""
    kernel = TsmKernel()

    def lose(path: Path) -> None:
        entry = kernel.entries[path.parent.name]
        entry.inblob, entry.written = b"\xee" * 64, entry.written - 1

    kernel.before = Times("write", "inblob", lose)
    assert attester(kernel).attest(claims()).data[80:144] == REPORT_DATA
    assert kernel.calls.count(("write", "inblob")) == 2


@pytest.mark.parametrize(
    ("operation", "name", "number"),
    [
        ("make", "entry", errno.EBUSY),
        ("write", "inblob", errno.EBUSY),
        ("read", "outblob", errno.EBUSY),
        ("read", "outblob", errno.EINTR),
        ("read", "outblob", errno.EAGAIN),
        ("read", "auxblob", errno.EBUSY),
        ("make", "entry", errno.EEXIST),
    ],
)
def test_a_busy_kernel_is_asked_again(operation: str, name: str, number: int) -> None:
    """One quote of TDX is in flight at a time: others get EBUSY, and come back. So does a name that was taken."""
    kernel = TsmKernel(before=Times(operation, name, fails(number), times=3))
    attester(kernel).attest(claims())
    assert kernel.calls.count(("make", "entry")) == 4
    assert kernel.entries == {}


def test_a_kernel_that_stays_busy_is_given_up() -> None:
    """Waiting is bounded."""
    assert reason(TsmKernel(before=Times("read", "outblob", fails(errno.EBUSY), times=99))) == "attester_busy"


@pytest.mark.parametrize(
    ("operation", "name", "number", "expected"),
    [
        ("read", "outblob", errno.EIO, "attester_failed"),
        ("read", "outblob", errno.ETIMEDOUT, "attester_failed"),
        ("read", "outblob", errno.ENOTTY, "attester_failed"),
        ("write", "inblob", errno.EINVAL, "attester_failed"),
        ("read", "outblob", errno.EFBIG, "attester_too_large"),
        ("make", "entry", errno.EACCES, "attester_permission"),
        ("make", "entry", errno.EPERM, "attester_permission"),
        ("make", "entry", errno.ENOENT, "attester_absent"),
        ("make", "entry", errno.ENOTDIR, "attester_absent"),
        ("make", "entry", errno.ENXIO, "attester_no_provider"),
    ],
)
def test_other_errors_end_it_at_once(operation: str, name: str, number: int, expected: str) -> None:
    """Each has its reason; none is tried again, and no directory stays."""
    kernel = TsmKernel(before=Times(operation, name, fails(number), times=99))
    assert reason(kernel) == expected
    assert kernel.calls.count(("make", "entry")) == 1


def test_a_machine_without_such_a_guest_is_told_apart_from_one_without_its_driver() -> None:
    """Not mounted or too old, and no provider: different things to do."""
    assert reason(TsmKernel(mounted=False)) == "attester_absent"
    assert reason(TsmKernel(provider=None)) == "attester_no_provider"


@pytest.mark.parametrize("provider", ["tdx_guest", "arm_cca_guest", "", "sev_guest2", "sév_guest"])
def test_another_provider_is_refused_before_anything_is_written(provider: str) -> None:
    """A report of another platform under this label would be refused by whoever verifies, and less plainly."""
    kernel = TsmKernel(provider=provider)
    assert reason(kernel) == "attester_provider"
    assert not [name for operation, name in kernel.calls if operation == "write"]


def test_a_report_about_other_data_is_refused() -> None:
    """Whatever the counts say: a report without our 64 bytes is not about our claims."""
    kernel = TsmKernel(report=lambda inblob, privlevel: bytes(1184))
    assert reason(kernel) == "attester_other_report"
    assert reason(TsmKernel(report=lambda inblob, privlevel: b"")) == "attester_other_report"


def test_too_large_answers_are_refused() -> None:
    """Report and table are bounded, each alone and together."""
    assert reason(TsmKernel(auxblob=bytes(192 << 10))) == "attester_too_large"
    assert reason(TsmKernel(auxblob=bytes((192 << 10) + 1))) == "attester_too_large"
    large = TsmKernel(report=lambda inblob, privlevel: inblob + bytes(192 << 10))
    assert reason(large) == "attester_too_large"


@pytest.mark.parametrize("text", [b"", b"\n", b"x\n", b"-1\n", b"1\n1\n", b"0x1\n", b"1" * 21])
def test_a_generation_that_is_no_number_is_refused(text: bytes) -> None:
    """Nothing is guessed from what a kernel does not say."""

    class Odd(TsmKernel):
        def read(self, path: Path, most: int) -> bytes:
            return text if path.name == "generation" else super().read(path, most)

    assert reason(Odd()) == "attester_answer"


def test_a_directory_that_stays_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Evidence is not lost over it: EBUSY is tried three times, anything else once."""
    for number, tried in ((errno.EBUSY, 3), (errno.EPERM, 1)):
        kernel = TsmKernel(before=Times("remove", "entry", fails(number), times=99))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            attester(kernel).attest(claims())
        assert [record.message for record in caplog.records] == ["attester_leftover"]
        assert kernel.calls.count(("remove", "entry")) == tried
    passing = TsmKernel(before=Times("remove", "entry", fails(errno.EBUSY), times=2))
    attester(passing).attest(claims())
    assert passing.entries == {}
