"""Is a quote of a TPM 2.0 genuine, and what was booted? (attestation spec: tpm, section 2).

The steps are in `STEPS`. What the caller still owes: the binding of the report data (`attestation.binding`) and the
appraisal (`attestation.appraisal`), which needs `memory_encryption_required: false` for any TPM, and a word about the
fact `attestation_key`: `unproven` means that nothing shows the quoting key to be in any TPM at all.
"""

import hashlib
import hmac
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from aigovtool.attestation.certificates import require_period
from aigovtool.attestation.event_list import replay
from aigovtool.attestation.examination import Examination, Examined, Step
from aigovtool.attestation.model import (
    REPORT_DATA_BYTES,
    Evidence,
    Fact,
    Label,
    MeasuredEvents,
    Measurement,
    Tcb,
    TcbComponent,
    TeeType,
    VerifiedEvidence,
)
from aigovtool.attestation.tee.tpm.activation import SecretFor, ek_digest, require_activated
from aigovtool.attestation.tee.tpm.certification import certified_chip
from aigovtool.attestation.tee.tpm.credential import ek_public
from aigovtool.attestation.tee.tpm.endorsement import (
    PROFILES,
    TpmIdentity,
    complete,
    google_roots,
    identity_of,
    key_of,
    read_chain,
)
from aigovtool.attestation.tee.tpm.event_log import first_value
from aigovtool.attestation.tee.tpm.evidence import Certifies, TpmEvidence, register_of, unwrap
from aigovtool.attestation.tee.tpm.structures import (
    ALG_ECDSA,
    ALG_RSAPSS,
    ALG_RSASSA,
    DECRYPT,
    ENCRYPTED_DUPLICATION,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    RH_ENDORSEMENT,
    SENSITIVE_DATA_ORIGIN,
    SIGN,
    X509_SIGN,
    PublicArea,
    PublicKey,
    Quote,
    hash_algorithm,
    named,
    parse_public,
    parse_quote,
    parse_signature,
    spki,
)
from aigovtool.errors import EvidenceError
from aigovtool.ids import ChipId

_PART_1: Final = "TPM 2.0 Library, Part 1"
_PART_2: Final = "TPM 2.0 Library, Part 2"
_EK_PROFILE: Final = "TCG EK Credential Profile 2.6"
STEPS: Final = (
    Step(Label("label"), "the evidence is labelled tpm", "attestation spec, tpm, 2"),
    Step(Label("encoding"), "the evidence is in its only encoding", "attestation spec, tpm, 1"),
    Step(Label("attestation_key"), "the quoting key is a restricted signing key of one TPM", f"{_PART_2}, 8.3, 12.2"),
    Step(Label("quote"), "what is signed is a quote over one bank of PCRs", f"{_PART_2}, 10.12"),
    Step(Label("certificates"), "the certificates are strictly encoded", "RFC 5280, 4.1"),
    Step(Label("chain"), "the certificate is a TPM key's, up to a trusted root", f"{_EK_PROFILE}, 3.2; RFC 5280, 6"),
    Step(Label("validity"), "all certificates are valid now", "RFC 5280, 6.1.3"),
    Step(Label("identity"), "the certificate names the TPM's maker, model and version", f"{_EK_PROFILE}, 3.2.9"),
    Step(Label("chip"), "which TPM it is, as the certificate says or as its key", "attestation spec, tpm, 2.1"),
    Step(Label("proof"), "a proof that the quoting key is in the TPM, where there is one, holds", f"{_PART_1}, 24"),
    Step(Label("signature"), "the quote is signed by the quoting key", f"{_PART_2}, 11.3"),
    Step(Label("freshness"), "the quote is over the report data", "attestation spec, 3.1"),
    Step(Label("pcrs"), "the PCR values are those quoted, all of them and no others", "TPM 2.0 Library, Part 3, 18.4"),
    Step(Label("replay"), "the measured events replay to the PCR values", "TCG PC Client PFP 1.06, 10.4"),
)

_MUST_BE_SET: Final = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | SIGN
_MUST_BE_CLEAR: Final = DECRYPT | ENCRYPTED_DUPLICATION | X509_SIGN


class KeyProof(StrEnum):
    """The fact `attestation_key`: how it is known that the quoting key is in a TPM."""

    CERTIFIED = "certified"  # an authority of a trusted root says so
    ACTIVATED = "activated"  # the TPM of the certified endorsement key has shown it
    UNPROVEN = "unproven"  # nobody has: the quote may be made by software


class TpmVerifier:
    """Verifies evidence of TPM 2.0; an `aigovtool.attestation.verifier.Verifier`.

    Args:
        roots: certificates of the authorities whose TPMs are trusted; Google's virtual TPMs if not given.
        activation: gives the secrets of this exchange (`activation.secret_for`). Without it, evidence that carries a
            secret is refused, because nobody can tell whether it is the right one.
        foreign_nonce: the whole extraData that evidence without report data must have: for bundles of other tools.
            Such evidence is bound to nothing of ours, and says so by the fact `foreign_nonce`.
        authorities: custodians' authorities, which have attestation keys activated and then certify them
            (`certification.certify`). Roots for that alone: no certificate of an endorsement key may lead to them.
        other_activations: give secrets that are as good, while the key that they are made from is rotated.
    """

    __slots__ = ("_activations", "_authorities", "_foreign_nonce", "_roots")

    def __init__(
        self,
        roots: Sequence[x509.Certificate] | None = None,
        activation: SecretFor | None = None,
        foreign_nonce: bytes | None = None,
        authorities: Sequence[x509.Certificate] = (),
        other_activations: Sequence[SecretFor] = (),
    ) -> None:
        self._roots: Final = google_roots() if roots is None else tuple(roots)
        self._activations: Final = (() if activation is None else (activation,)) + tuple(other_activations)
        self._foreign_nonce: Final = foreign_nonce
        self._authorities: Final = tuple(authorities)

    def examine(self, evidence: Evidence, now_ms: int) -> Examined:
        """Make every step. The reasons are those of the specification's table."""
        look = Examination(STEPS)
        look.run("label", lambda: _require_label(evidence))
        bundle = look.run("encoding", lambda: unwrap(evidence.data))
        ak = look.run("attestation_key", lambda: _attestation_key(bundle.found().ak_public))
        quote = look.run("quote", lambda: parse_quote(bundle.found().attest))
        read = look.run("certificates", lambda: read_chain(bundle.found().certificate, evidence.endorsements))
        chain = look.run("chain", lambda: self._chain(read.found(), bundle.found().certifies))
        period = look.run("validity", lambda: require_period(chain.found(), now_ms, PROFILES[bundle.found().certifies]))
        identity = look.run("identity", lambda: identity_of(read.found()[0], bundle.found().certifies))
        chip = look.run("chip", lambda: self._chip(chain.found()))
        proof = look.run("proof", lambda: self._proof(bundle.found(), read.found()[0], ak.found()))
        look.run("signature", lambda: _require_signed(bundle.found(), ak.found()))
        look.run("freshness", lambda: self._require_fresh(bundle.found(), quote.found()))
        look.run("pcrs", lambda: _require_values(bundle.found(), quote.found(), ak.found()))
        look.run("replay", lambda: _require_replay(bundle.found()))
        return look.ended(
            lambda: VerifiedEvidence(
                tee=TeeType.TPM,
                measurements=_measurements(bundle.found()),
                report_data=bundle.found().report_data or quote.found().extra_data.ljust(REPORT_DATA_BYTES, b"\0"),
                # A TPM has no debug mode: a restricted key quotes what was measured, and nothing else.
                debug=False,
                tcb=_tcb(quote.found(), ak.found(), key_of(read.found()[0]), proof.found()),
                # Whoever owns the machine reads its memory: a TPM encrypts none of it.
                memory_encryption=False,
                chip_id=None if proof.found() is KeyProof.UNPROVEN else chip.found(),
                facts=_facts(bundle.found(), quote.found(), identity.found(), proof.found()),
                endorsed_until_ms=period.found().until_ms,
                events=_events(bundle.found()),
            )
        )

    def _chain(self, read: tuple[x509.Certificate, ...], certifies: Certifies) -> tuple[x509.Certificate, ...]:
        authorities = self._authorities if certifies is Certifies.AK else ()
        return complete(read, (*self._roots, *authorities), certifies)

    def _chip(self, chain: tuple[x509.Certificate, ...]) -> ChipId:
        """Return which TPM it is: by the certified key, or by what a custodian wrote who had activated another."""
        if chain[-1] in self._authorities:
            return certified_chip(chain[0])
        return ChipId(ek_digest(key_of(chain[0])).hex())

    def _proof(self, bundle: TpmEvidence, leaf: x509.Certificate, ak: PublicArea) -> KeyProof:
        key = key_of(leaf)
        if bundle.certifies is Certifies.AK:
            if bundle.secret is not None:
                raise EvidenceError("a certified attestation key needs no secret", reason="activation_unknown")
            if spki(key) != spki(ak.key):
                raise EvidenceError("the certificate is of another attestation key", reason="ak_not_certified")
            return KeyProof.CERTIFIED
        if spki(key) == spki(ak.key):
            raise EvidenceError("an endorsement key does not quote", reason="ak_not_certified")
        if bundle.secret is None:
            return KeyProof.UNPROVEN
        if not self._activations:
            raise EvidenceError("a secret that was not asked for here", reason="activation_unknown")
        require_activated(bundle.secret, *(secret_of(ek_digest(key), ak.name) for secret_of in self._activations))
        return KeyProof.ACTIVATED

    def _require_fresh(self, bundle: TpmEvidence, quote: Quote) -> None:
        if bundle.report_data is not None:
            expected = hashlib.sha256(bundle.report_data).digest()
        elif self._foreign_nonce is not None:
            expected = self._foreign_nonce
        else:
            raise EvidenceError("the evidence has no report data", reason="report_data_missing")
        if not hmac.compare_digest(quote.extra_data, expected):
            raise EvidenceError("the quote is over other report data", reason="extra_data")


def _require_label(evidence: Evidence) -> None:
    if evidence.tee is not TeeType.TPM:
        raise EvidenceError(f"evidence labelled {evidence.tee} is not of a TPM", reason="tee_mismatch")


def _attestation_key(data: bytes) -> PublicArea:
    """Return the key if only its TPM can use it, and only to sign what the TPM itself has made.

    RESTRICTED is what makes a quote believable: such a key signs no bytes that begin like a TPM's own structures.
    """
    ak = parse_public(data)
    if ak.attributes & _MUST_BE_SET != _MUST_BE_SET or ak.attributes & _MUST_BE_CLEAR:
        raise EvidenceError(f"the quoting key has attributes {ak.attributes:#x}", reason="ak_attributes")
    schemes = {ALG_RSASSA, ALG_RSAPSS} if isinstance(ak.key, rsa.RSAPublicKey) else {ALG_ECDSA}
    if ak.scheme not in schemes or ak.symmetric:
        raise EvidenceError("the quoting key has no fixed signing scheme of its kind", reason="ak_scheme")
    return ak


def _require_signed(bundle: TpmEvidence, ak: PublicArea) -> None:
    signature = parse_signature(bundle.signature)
    if (signature.scheme, signature.scheme_hash) != (ak.scheme, ak.scheme_hash):
        raise EvidenceError("the quote is signed with another scheme than its key's", reason="signature_scheme")
    algorithm = hash_algorithm(ak.scheme_hash)
    try:
        if isinstance(ak.key, ec.EllipticCurvePublicKey):
            r, s = (int.from_bytes(part) for part in signature.parts)
            ak.key.verify(encode_dss_signature(r, s), bundle.attest, ec.ECDSA(algorithm))
        elif ak.scheme == ALG_RSASSA:
            ak.key.verify(signature.parts[0], bundle.attest, padding.PKCS1v15(), algorithm)
        else:
            # A TPM takes the longest salt that fits, or with FIPS one of the hash's size (Part 1, annex B.7).
            pss = padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO)
            ak.key.verify(signature.parts[0], bundle.attest, pss, algorithm)
    except (InvalidSignature, ValueError):
        raise EvidenceError("the quote is not signed by the quoting key", reason="signature") from None


def _require_values(bundle: TpmEvidence, quote: Quote, ak: PublicArea) -> None:
    listed = tuple(value.index for value in bundle.pcrs)
    if bundle.bank != quote.bank or listed != quote.selected:
        raise EvidenceError("the PCRs that are listed are not those that are quoted", reason="pcr_selection")
    size = hashlib.new(bundle.bank).digest_size
    values = [bytes.fromhex(value.digest) for value in bundle.pcrs]
    if any(len(value) != size for value in values):
        raise EvidenceError("a PCR value is not of its bank", reason="pcr_selection")
    # The TPM hashes the values with the hash of the signature (Part 3, 18.4).
    if not hmac.compare_digest(hashlib.new(ak.scheme_hash, b"".join(values)).digest(), quote.pcr_digest):
        raise EvidenceError("the PCR values are not those that were quoted", reason="pcr_digest")


def _require_replay(bundle: TpmEvidence) -> None:
    values = {value.index: value.digest for value in bundle.pcrs}
    for log in bundle.events.registers:
        index = register_of(log.register)
        if index not in values or not log.digests:
            raise EvidenceError(f"events of {log.register}, which is not quoted, or none", reason="event_register")
        if replay(log.digests, bundle.bank, first_value(index, bundle.startup_locality, bundle.bank)) != values[index]:
            raise EvidenceError(f"the events of {log.register} do not replay to its value", reason="replay")


def _measurements(bundle: TpmEvidence) -> tuple[Measurement, ...]:
    return tuple(Measurement(name=Label(f"pcr{value.index}"), digest=value.digest) for value in bundle.pcrs)


def _events(bundle: TpmEvidence) -> tuple[MeasuredEvents, ...]:
    """Return what replays from zero to a measurement: not PCR 0 where it starts with a locality."""
    return tuple(log for log in bundle.events.registers if log.register != "pcr0" or not bundle.startup_locality)


def _tcb(quote: Quote, ak: PublicArea, certified: PublicKey, proof: KeyProof) -> Tcb:
    """Return the TPM's firmware version, most significant part first, if the quote tells it truly.

    For keys outside the endorsement hierarchy a TPM adds a number to the version and the reset counters that only it
    knows (Part 1, 36), so only for keys in that hierarchy is it told: primary keys, and children of the endorsement
    key. Which it is, is in the Qualified Name of the signer (Part 1, 26.5). Of an unproven key nothing is known.
    """
    qualified = {named(ak.name_alg, RH_ENDORSEMENT + ak.name)}
    if spki(certified) != spki(ak.key):
        ek = ek_public(certified)
        qualified.add(named(ak.name_alg, named(ek.name_alg, RH_ENDORSEMENT + ek.name) + ak.name))
    if proof is KeyProof.UNPROVEN or quote.qualified_signer not in qualified:
        return Tcb(components=())
    return Tcb(
        components=(
            TcbComponent(name=Label("firmware_1"), version=quote.firmware_version >> 32),
            TcbComponent(name=Label("firmware_2"), version=quote.firmware_version & 0xFFFFFFFF),
        )
    )


def _facts(bundle: TpmEvidence, quote: Quote, identity: TpmIdentity, proof: KeyProof) -> tuple[Fact, ...]:
    foreign = () if bundle.report_data is not None else (("foreign_nonce", quote.extra_data.hex() or "empty"),)
    return tuple(
        Fact(name=Label(name), value=value)
        for name, value in (
            ("attestation_key", proof.value),
            ("bank", bundle.bank.value),
            ("clock_safe", "yes" if quote.safe else "no"),
            ("tpm_manufacturer", identity.manufacturer),
            ("tpm_model", identity.model),
            ("tpm_version", identity.version),
            *foreign,
        )
    )
