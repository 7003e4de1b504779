"""Entries of the audit log in words: what `audit list` and `audit watch` say of them."""

import pytest

from aigovtool.cli.audit.entries import describe
from aigovtool.ids import BorrowerId, ChipId, Digest, InstanceId
from aigovtool.ledger.entry import Attested


@pytest.mark.parametrize(
    ("chip", "told"), [(ChipId("ab" * 32), f"on tpm, chip {'ab' * 32}"), (None, "on tpm")], ids=["told", "not told"]
)
def test_an_admission_says_on_which_chip_where_the_platform_tells(chip: ChipId | None, told: str) -> None:
    """As the appraisal policy names it, so that an auditor can compare the two."""
    admitted = Attested(
        instance=InstanceId("a" * 64),
        borrower=BorrowerId("north"),
        tee="tpm",
        measurement="00",
        result=Digest("sha256:" + "d" * 64),
        chip=chip,
    )
    assert describe(admitted).what.endswith(told)
