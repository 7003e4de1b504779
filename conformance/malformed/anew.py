"""Evidence that was changed and then signed again with the right TEST-ONLY keys: what only a platform could send.

It passes the signatures, so that it reaches what reads signed contents. It may be genuine: whoever has the keys can say
anything. What it must not do is make a verifier fail, or take long.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random

import msgspec
from tests.attestation.authority import NOW_MS as TPM_NOW_MS
from tests.attestation.tee.intel import maker as intel
from tests.attestation.tee.nitro import maker as nitro
from tests.attestation.tee.snp import maker as snp
from tests.attestation.tee.tpm import maker as tpm

from aigovtool.attestation.model import TeeType
from aigovtool.attestation.tee.intel.collateral import Collateral
from aigovtool.attestation.tee.intel.verify import SgxVerifier, TdxVerifier
from aigovtool.attestation.tee.nitro.cbor import write
from aigovtool.attestation.tee.nitro.verify import NitroVerifier
from aigovtool.attestation.tee.snp.verify import SnpVerifier
from aigovtool.attestation.tee.tpm.verify import TpmVerifier
from aigovtool.attestation.verifier import Verifier
from aigovtool.codec import encode
from conformance.malformed import der, edits, structured

Parts = tuple[bytes, ...]
#: Edits that keep the size.
_IN_PLACE = (edits.flip, edits.swap, edits.zero, edits.lie)


@cache
def verifier(tee: TeeType) -> tuple[Verifier, int]:
    """Return who believes these keys, and as of when."""
    made: dict[TeeType, Callable[[], tuple[Verifier, int]]] = {
        TeeType.SEV_SNP: lambda: (SnpVerifier(snp.roots()), snp.NOW_MS),
        TeeType.TDX: lambda: (TdxVerifier(intel.root_der()), intel.NOW_MS),
        TeeType.SGX: lambda: (SgxVerifier(intel.root_der()), intel.NOW_MS),
        TeeType.NITRO: lambda: (NitroVerifier(roots=nitro.roots()), nitro.NOW_MS),
        TeeType.TPM: lambda: (TpmVerifier((tpm.root(),)), TPM_NOW_MS),
    }
    return made[tee]()


def _in_place(data: bytes, chance: Random) -> bytes:
    return chance.choice(_IN_PLACE)(data, chance)


def _snp(chance: Random) -> Parts:
    if chance.random() < 0.05:
        oid = chance.choice(("1", "2", "3.1", "3.4", "3.8", "4", "5", "6"))
        value = der.edit(snp.leaf_extensions().get(oid, b"\x02\x01\x00"), chance)
        return (snp.report(), *snp.der(snp.leaf(changes={oid: value})))
    product = chance.choice(list(snp.TCB))
    data = snp.report(product, version=chance.choice((2, 3, 5)))
    changed = snp.signed(_in_place(data[:0x2A0], chance) + data[0x2A0:])
    if chance.random() < 0.3:
        changed = snp.container(changed, chance.randbytes(chance.choice((1, 40, 3000))))
    return (changed, *snp.der(snp.usual_leaf(product)))


@cache
def _intel_parts(recipe: str) -> tuple[bytes, Collateral]:
    chosen = {"tdx": intel.TDX4, "tdx15": intel.TDX15, "sgx": intel.SGX}[recipe]
    return intel.quote(chosen), intel.collateral(chosen)


def _intel(chance: Random, recipe: str) -> Parts:
    data, collateral = _intel_parts(recipe)
    if chance.random() < 0.5:
        size = {"tdx": 632, "tdx15": 48 + 6 + 648, "sgx": 432}[recipe]
        signed = _in_place(data[:size], chance)
        data = signed + data[size : size + 4] + intel.sign("attestation", signed) + data[size + 68 :]
    else:
        member = chance.choice(("tcb_info", "qe_identity"))
        document = json.loads(getattr(collateral, member))
        for _ in range(chance.choice((1, 1, 3))):
            document = structured.changed(document, chance)
        text = json.dumps(document, separators=(",", ":")).encode(errors="replace").decode(errors="replace")
        signature = intel.sign("signing", text.encode()).hex()
        collateral = msgspec.structs.replace(collateral, **{member: text, f"{member}_signature": signature})
    return data, encode(collateral)


def _nitro(chance: Random) -> Parts:
    if chance.random() < 0.4:
        certificates = list(nitro.chain())
        at = chance.randrange(len(certificates))
        certificates[at] = der.edit(certificates[at], chance)
        return (nitro.document(certificates),)
    return (nitro.sealed(structured.cbor(write(nitro.members()), chance)),)


@dataclass(frozen=True)
class _Edited(tpm.Forgery):
    """A quote whose structures are other bytes than its fields make."""

    attested: bytes | None = None
    public: bytes | None = None

    def attest(self) -> bytes:
        return super().attest() if self.attested is None else self.attested

    def ak_public(self) -> bytes:
        return super().ak_public() if self.public is None else self.public


def _tpm(chance: Random) -> Parts:
    ak = chance.choice((tpm.ecc_key("ak"), tpm.ecc_key("ak"), tpm.rsa_key("ak")))
    certifies = chance.choice(("ek", "ak"))
    usual = tpm.Forgery(ak=ak, certifies=certifies)
    certificate = usual.leaf_certificate()
    attested = public = None
    match chance.randrange(3):
        case 0:
            attested = edits.edit(usual.attest(), chance)
        case 1:
            public = edits.edit(usual.ak_public(), chance)
        case _:
            certificate = der.edit(certificate, chance)
    made = _Edited(ak=ak, certifies=certifies, attested=attested, public=public, certificate=certificate).made()
    return made.data, *made.endorsements


_MAKERS: Mapping[TeeType, Callable[[Random], Parts]] = {
    TeeType.SEV_SNP: _snp,
    TeeType.TDX: lambda chance: _intel(chance, chance.choice(("tdx", "tdx15"))),
    TeeType.SGX: lambda chance: _intel(chance, "sgx"),
    TeeType.NITRO: _nitro,
    TeeType.TPM: _tpm,
}


def signed_anew(tee: TeeType, chance: Random) -> Parts:
    """Return data and endorsements."""
    return _MAKERS[tee](chance)
