"""What the services of vendors answer, and Intel's collateral as other tools write it.

An answer is taken only at its own address, and only with the very list, certificate or document that the vendor signed;
collateral comes out with the members that it went in with, in its only spelling.
"""

import json
from collections.abc import Mapping
from functools import cache
from random import Random
from typing import Any, Final, cast
from urllib.parse import quote, unquote

from conformance.malformed import der, edits, structured

from aigovtool.attestation.tee.fetched import Issued
from aigovtool.attestation.tee.intel import answers as intel
from aigovtool.attestation.tee.intel.authentic import trusted
from aigovtool.attestation.tee.intel.collateral import Collateral, PcsAnswer, collateral_from_json
from aigovtool.attestation.tee.intel.wanted import wanted
from aigovtool.attestation.tee.snp import answers as amd
from aigovtool.attestation.tee.snp.authorities import Authorities, authorities_of
from aigovtool.attestation.tee.snp.product import Product
from aigovtool.attestation.tee.snp.wanted import wanted as wanted_of_amd
from aigovtool.errors import EvidenceError
from assurance.code_digest import ROOT
from assurance.parsers import documents
from assurance.parsers.certificates import NotDerError, unarmoured
from assurance.parsers.parser import Kind, Parts, edit_one
from assurance.parsers.reading import NotJsonError, by_hand

_VECTORS: Final = ROOT / "conformance" / "vectors"
_INTEL_MS, _AMD_MS = 1_800_000_000_000, 1_780_272_000_000
_SIGNED: Final = (("tcb_info", "tcbInfo"), ("qe_identity", "enclaveIdentity"))
_LISTS: Final = ("pck_crl", "root_ca_crl")
_CHAINS: Final = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain")
_HEADERS: Final = (
    "tcb-info-issuer-chain",
    "sgx-enclave-identity-issuer-chain",
    "sgx-pck-crl-issuer-chain",
)


@cache
def vector(name: str) -> bytes:
    """Return a file of the conformance vectors."""
    return (_VECTORS / name).read_bytes()


@cache
def collateral() -> Mapping[str, str]:
    """Return the members of genuine collateral."""
    members: dict[str, str] = json.loads(vector("tdx/genuine-4.1.end"))
    return members


# --- Intel's answers -----------------------------------------------------------------------------


@cache
def intel_answers() -> tuple[Parts, ...]:
    """Return address, body, name of the header and its value, of each answer for a genuine quote."""
    whole, addresses = collateral(), wanted(vector("tdx/genuine-4.bin"))
    found: list[tuple[bytes, str, str]] = []
    for (name, member), header in zip(_SIGNED, _HEADERS, strict=False):
        body = f'{{"{member}":{whole[name]},"signature":"{whole[f"{name}_signature"]}"}}'
        found.append((body.encode(), header, whole[f"{name}_issuer_chain"]))
    found.append((bytes.fromhex(whole["pck_crl"]), _HEADERS[2], whole["pck_crl_issuer_chain"]))
    found.append((bytes.fromhex(whole["root_ca_crl"]), "", ""))
    return tuple(
        (address.encode(), body, header.encode(), quote(chain).encode())
        for address, (body, header, chain) in zip(addresses, found, strict=True)
    )


def _edit_answer(parts: Parts, chance: Random) -> Parts:
    """Change or exchange the address, the body, the name of the header, or the chain within its escapes."""
    url, body, header, chain = parts
    other = chance.choice(intel_answers())
    match chance.randrange(12):
        case 0:
            url = chance.choice((other[0], edits.edit(url, chance), url.lower(), url + b"&x=1", url + b"\n"))
        case 1:
            body = chance.choice((other[1], body + chance.choice((b"\n", b" ", b"\0", b"{}"))))
        case 2:
            header = chance.choice((other[2], header.upper(), header + b" ", b""))
        case 3:
            chain = chance.choice((other[3], unquote(chain.decode()).encode(), quote(chain).encode()))
        case 4 | 5:
            chain = quote(structured.pem(unquote(chain.decode()).encode() or b"-", chance)).encode()
        case 6:
            chain = edits.edit(chain, chance)
        case 7:
            body = edits.edit(body, chance)
        case _:
            body = structured.edit(body, chance) if body[:1] == b"{" else der.edit(body, chance)
    return url, body, header, chain


def _intel(parts: Parts) -> Issued:
    url, body, header, chain = (part.decode("latin-1") for part in parts)
    headers = {header: chain, "Request-ID": "7"} if header else {}
    root = trusted(vector("roots/intel-root.der"))
    return intel.issued(url, PcsAnswer(body.encode("latin-1"), headers), _INTEL_MS, root)


@cache
def _known(at: int) -> Issued:
    return _intel(intel_answers()[at])


def _wrong_intel(parts: Parts, value: object) -> str | None:
    found = [at for at, one in enumerate(intel_answers()) if one[0] == parts[0]]
    if not found:
        return "an answer at an address that nobody asked"
    genuine = intel_answers()[found[0]]
    if value != _known(found[0]):
        return "an answer of another day"
    if genuine[2] and (parts[2].lower() != genuine[2] or not _same_chain(parts[3], genuine[3])):
        return "an answer with another chain"
    if genuine[1][:1] == b"{":
        # Behind the signature white space may follow, and nobody says in which case its digits are.
        body, ended = parts[1][:-130], parts[1].rstrip(b" \t\n\r\x0b\f")
        signed = genuine[1].rpartition(b'"signature":"')[0]
        same = ended.lower() == genuine[1].lower() and ended[: len(signed)] == signed and len(body) > 0
        return None if same else "another document than the signed one"
    return None if _same_list(parts[1], genuine[1]) else "another list than the signed one"


def _same_chain(escaped: bytes, genuine: bytes) -> bool:
    """Return whether the certificates in a header are those of the genuine one, which OpenSSL compares by their DER."""
    try:
        found, known = (
            unarmoured(unquote(one.decode("latin-1")).encode(), b"CERTIFICATE") for one in (escaped, genuine)
        )
    except NotDerError:
        return False
    return found == known


def _same_list(body: bytes, genuine: bytes) -> bool:
    try:
        return body == genuine or unarmoured(body, b"X509 CRL") == [genuine]
    except NotDerError:
        return False


# --- AMD's answers -------------------------------------------------------------------------------


@cache
def amd_answers() -> tuple[Parts, ...]:
    """Return address and body of the certificate of a chip, and of the list of revoked authorities."""
    leaf, _chain, revoked = wanted_of_amd(vector("sev-snp/genuine-milan-vcek.bin"))
    bodies = vector("sev-snp/genuine-milan-vcek.1.end"), vector("sev-snp/genuine-chain-and-list.4.end")
    return (leaf.encode(), bodies[0]), (revoked.encode(), bodies[1])


@cache
def _roots() -> Mapping[Product, Authorities]:
    return authorities_of([vector(f"roots/amd-milan-{name}.der") for name in ("ark", "ask", "asvk")])


def _edit_amd(parts: Parts, chance: Random) -> Parts:
    url, body = parts
    if chance.random() < 0.2:
        swaps = ((b"vcek", b"vlek"), (b"Milan", b"Genoa"), (b"?", b"?x=1&"), (b"SPL=0", b"SPL="), (b"SPL=", b"SPL=1"))
        swapped = url.replace(*chance.choice(swaps))
        return chance.choice((swapped, edits.edit(url, chance), chance.choice(amd_answers())[0])), body
    return url, (der.edit if chance.random() < 0.7 else edits.edit)(body, chance)


def _amd(parts: Parts) -> Issued:
    return amd.issued(parts[0].decode("latin-1"), parts[1], _AMD_MS, _roots())


def _wrong_amd(parts: Parts, value: object) -> str | None:
    """Both lists of a product are by one authority, and nothing in one says which it is."""
    url = parts[0].replace(b"/vlek/v1/Milan/crl", b"/vcek/v1/Milan/crl")
    found = [one for one in amd_answers() if one[0] == url]
    if not found or parts[1] != found[0][1]:
        return "an answer that AMD never gave at this address"
    return None if value == _amd(found[0]) else "an answer of another day"


# --- Collateral ----------------------------------------------------------------------------------


def _edit_collateral(parts: Parts, chance: Random) -> Parts:
    """Change how members are written that may be written in many ways, or anything as JSON."""
    document: dict[str, Any] = json.loads(parts[0])
    name = chance.choice(list(document))
    match chance.randrange(8):
        case 0:
            document = dict(chance.sample(list(document.items()), len(document)))
        case 1:
            name = chance.choice([*_LISTS, *(f"{name}_signature" for name, _ in _SIGNED)])
            spaced = " ".join(document[name][at : at + 2] for at in range(0, len(document[name]), 2))
            document[name] = chance.choice(
                (document[name].upper(), spaced, document[name] + "0", document[name] + "\n")
            )
        case 2:
            name = chance.choice(_CHAINS)
            document[name] = chance.choice((document[name].replace("\n", "\r\n"), document[name].rstrip("\n"), ""))
        case 3:
            name = chance.choice(_CHAINS)
            document[name] = structured.pem(document[name].encode(), chance).decode("latin-1")
        case 4:
            name = chance.choice(_LISTS)
            document[name] = der.edit(bytes.fromhex(document[name]), chance).hex()
        case 5:
            document["pck_certificate_chain"] = chance.choice((None, document[_CHAINS[0]], "no PEM", 7))
        case _:
            return edit_one(parts, chance)
    return (json.dumps(document, indent=chance.choice((None, None, 1, 4))).encode(),)


def wrong_collateral(parts: Parts, value: object) -> str | None:
    """Return what is wrong with collateral in its only spelling that was made of what is in a file."""
    encoded = cast("bytes", value)
    try:
        read, written = by_hand(parts[0]), by_hand(encoded)
        expected = read | {name: _hex(read[name]) for name in _LISTS}
        expected |= {name: unarmoured(read[name].encode(), b"CERTIFICATE") for name in _CHAINS}
        expected |= {f"{name}_signature": read[f"{name}_signature"].lower() for name, _ in _SIGNED}
        found = written | {name: unarmoured(written[name].encode(), b"CERTIFICATE") for name in _CHAINS}
    except (NotJsonError, NotDerError, LookupError, ValueError, TypeError, AttributeError) as error:
        return f"collateral made of what is none: {error}"
    expected.pop("pck_certificate_chain", None)
    if (what := documents.misspelled(encoded, Collateral)) is not None:
        return what
    different = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    return f"collateral with another {different[0]}" if different else None


def _hex(text: str) -> str:
    """Return the hexadecimal digits of a list; white space between bytes means nothing."""
    found = "".join(text.split()).lower()
    return found if not set(found) - set("0123456789abcdef") else "none"


def kinds() -> tuple[Kind, ...]:
    """Return the kinds of inputs that are answers or collateral."""
    return (
        Kind(
            name="intel-answers",
            genuine=intel_answers(),
            edit=_edit_answer,
            read=_intel,
            wrong=_wrong_intel,
            refusals=(EvidenceError,),
            weight=4,
        ),
        Kind(
            name="amd-answers",
            genuine=amd_answers(),
            edit=_edit_amd,
            read=_amd,
            wrong=_wrong_amd,
            refusals=(EvidenceError,),
            weight=3,
        ),
        Kind(
            name="collateral",
            genuine=((vector("tdx/genuine-4.1.end"),), (json.dumps(dict(collateral()), indent=2).encode(),)),
            edit=_edit_collateral,
            read=lambda parts: collateral_from_json(parts[0]),
            wrong=wrong_collateral,
            refusals=(EvidenceError,),
            weight=3,
        ),
    )
