"""The verifiers of real platforms, with the roots of their vendors; each is loaded when it is asked for."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from aigovtool.attestation.model import TeeType
from aigovtool.attestation.verifier import Verifier


def _sev_snp() -> Verifier:
    from aigovtool.attestation.tee.snp.verify import SnpVerifier  # noqa: PLC0415

    return SnpVerifier()


def _tdx() -> Verifier:
    from aigovtool.attestation.tee.intel.verify import TdxVerifier  # noqa: PLC0415

    return TdxVerifier()


def _sgx() -> Verifier:
    from aigovtool.attestation.tee.intel.verify import SgxVerifier  # noqa: PLC0415

    return SgxVerifier()


def _nitro() -> Verifier:
    from aigovtool.attestation.tee.nitro.verify import NitroVerifier  # noqa: PLC0415

    return NitroVerifier()


#: By TEE type. A TPM has no one vendor: whoever accepts one names its maker's roots, so it is not here.
HARDWARE: Final[Mapping[TeeType, Callable[[], Verifier]]] = MappingProxyType(
    {TeeType.SEV_SNP: _sev_snp, TeeType.TDX: _tdx, TeeType.SGX: _sgx, TeeType.NITRO: _nitro}
)
