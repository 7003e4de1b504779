"""The library for TPMs is optional: most machines need none."""

import sys

import pytest

from aigovtool.enclave.attesters.tpm import TpmAttester
from aigovtool.errors import ConfigurationError


def test_without_the_library_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines without a TPM need no library for it; whoever asks for one is told what to install."""
    monkeypatch.setitem(sys.modules, "tpm2_pytss", None)
    with pytest.raises(ConfigurationError) as caught:
        TpmAttester("swtpm:port=2321")
    assert caught.value.reason == "tpm_library"
    assert "aigovtool[tpm]" in (caught.value.fix or "")


@pytest.mark.parametrize("registers", [(), (24,), (-1, 0)])
def test_registers_that_do_not_exist_are_a_mistake_of_configuration(registers: tuple[int, ...]) -> None:
    """A quote over nothing would be genuine and say nothing."""
    with pytest.raises(ConfigurationError) as caught:
        TpmAttester(registers=registers)
    assert caught.value.reason == "tpm_registers"
