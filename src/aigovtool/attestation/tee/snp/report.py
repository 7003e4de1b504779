"""The attestation report of SEV-SNP, byte by byte (AMD 56860, ATTESTATION_REPORT; spec: attestation/snp, 1).

1184 bytes, little-endian. Versions 2, 3 and 5 are read. Whatever a version reserves must be zero, and bits that no
published version defines are refused: they might mean danger.
"""

from dataclasses import dataclass
from typing import Final

from aigovtool.attestation.tee.snp.product import TCB_BYTES, Product, product_of
from aigovtool.errors import EvidenceError

REPORT_BYTES: Final = 1184
SIGNED_BYTES: Final = 0x2A0

#: Versions with a meaning known here. Version 3 added the CPUID fields, version 5 the mitigation vectors.
VERSIONS: Final = (2, 3, 5)
DEBUG_BIT: Final = 19
_MUST_BE_ONE_BIT: Final = 17
#: Bits of the guest policy, which the guest's owner sets and the firmware enforces, by name.
POLICY_BITS: Final = (
    (16, "smt"),
    (18, "migrate_ma"),
    (20, "single_socket"),
    (21, "cxl"),
    (22, "aes_256_xts"),
    (23, "rapl_off"),
    (24, "ciphertext_hiding"),
    (25, "page_swap_off"),
)
#: Bits of PLATFORM_INFO, by name. Bit 6 is set by Turin and named by AMD's own tools only.
PLATFORM_BITS: Final = (
    (0, "smt"),
    (1, "tsme"),
    (2, "ecc"),
    (3, "rapl_off"),
    (4, "ciphertext_hiding"),
    (5, "alias_check"),
    (6, "iommu_write_safe"),
    (7, "tio"),
)
_POLICY_MASK: Final = 0xFFFF | 1 << _MUST_BE_ONE_BIT | 1 << DEBUG_BIT | sum(1 << bit for bit, _ in POLICY_BITS)
_PLATFORM_MASK: Final = sum(1 << bit for bit, _ in PLATFORM_BITS)
_FLAGS_MASK: Final = 0x1F
_ECDSA_P384_SHA384: Final = 1
_MOST_VMPL: Final = 3

VCEK: Final = 0
VLEK: Final = 1
UNSIGNED: Final = 7

#: Half-open ranges that are reserved in every version, and those that a version reserves beside them.
_RESERVED: Final = ((0x04C, 0x050), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x208, 0x2A0), (0x330, 0x4A0))
_RESERVED_IN: Final = {2: ((0x188, 0x18B), (0x1F8, 0x208)), 3: ((0x1F8, 0x208),), 5: ()}
# r and s are 48 bytes each, in fields of 72.
_R_OFFSET: Final = 0x2A0
_S_OFFSET: Final = 0x2E8
_SCALAR_BYTES: Final = 48
_SCALAR_FIELD_BYTES: Final = 72


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A parsed report; nothing of it is verified.

    Attributes:
        policy: the guest policy; its bits are `POLICY_BITS` and `DEBUG_BIT`, its low 16 bits the ABI version.
        platform: PLATFORM_INFO; its bits are `PLATFORM_BITS`.
        current_tcb: a TCB_VERSION as its 8 bytes, like the other three; `product.read_tcb` reads it.
        current_firmware: major, minor and build of the firmware that runs.
        committed_firmware: the same of the oldest firmware that the host can go back to.
        signing_key: `VCEK`, `VLEK` or `UNSIGNED`.
        product: from the CPUID fields; None in version 2, which has none.
        launch_mitigations: the mitigation vector at launch; None before version 5.
        signed: what the signature covers.
        r: with `s` the ECDSA signature.
    """

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: bytes
    platform: int
    author_key_en: bool
    mask_chip_key: bool
    signing_key: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    product: Product | None
    chip_id: bytes
    committed_tcb: bytes
    current_firmware: tuple[int, int, int]
    committed_firmware: tuple[int, int, int]
    launch_tcb: bytes
    launch_mitigations: int | None
    current_mitigations: int | None
    signed: bytes
    r: int
    s: int

    @property
    def debug(self) -> bool:
        """Whether the policy lets the host read and change the guest."""
        return bool(self.policy >> DEBUG_BIT & 1)


def parse_report(data: bytes) -> Report:
    """Return the report in `data`; its signature is not verified here.

    Raises:
        EvidenceError: `report_length`, `report_version`, `report_reserved`, `report_policy`, `report_vmpl`,
            `report_algorithm`, `report_platform`, `report_flags`, `product_unknown`, `report_signature`.
    """
    _require_form(data)
    flags = _number(data, 0x048, 4)
    version = _number(data, 0x000, 4)
    return Report(
        version=version,
        guest_svn=_number(data, 0x004, 4),
        policy=_number(data, 0x008, 8),
        family_id=data[0x010:0x020],
        image_id=data[0x020:0x030],
        vmpl=_number(data, 0x030, 4),
        current_tcb=_tcb(data, 0x038),
        platform=_number(data, 0x040, 8),
        author_key_en=bool(flags & 1),
        mask_chip_key=bool(flags >> 1 & 1),
        signing_key=flags >> 2 & 7,
        report_data=data[0x050:0x090],
        measurement=data[0x090:0x0C0],
        host_data=data[0x0C0:0x0E0],
        id_key_digest=data[0x0E0:0x110],
        author_key_digest=data[0x110:0x140],
        report_id=data[0x140:0x160],
        report_id_ma=data[0x160:0x180],
        reported_tcb=_tcb(data, 0x180),
        product=product_of(data[0x188], data[0x189]) if version >= 3 else None,
        chip_id=data[0x1A0:0x1E0],
        committed_tcb=_tcb(data, 0x1E0),
        current_firmware=_firmware(data, 0x1E8),
        committed_firmware=_firmware(data, 0x1EC),
        launch_tcb=_tcb(data, 0x1F0),
        launch_mitigations=_number(data, 0x1F8, 8) if version >= 5 else None,
        current_mitigations=_number(data, 0x200, 8) if version >= 5 else None,
        signed=data[:SIGNED_BYTES],
        r=_number(data, _R_OFFSET, _SCALAR_BYTES),
        s=_number(data, _S_OFFSET, _SCALAR_BYTES),
    )


def _require_form(data: bytes) -> None:
    """Require everything that has only one value, or only a few."""
    _require(f"a report has {REPORT_BYTES} bytes, not {len(data)}", "report_length", holds=len(data) == REPORT_BYTES)
    version, policy = _number(data, 0x000, 4), _number(data, 0x008, 8)
    _require(f"report version {version} is not known", "report_version", holds=version in VERSIONS)
    for start, end in (*_RESERVED, *_RESERVED_IN[version]):
        message = f"bytes {start:#x} to {end:#x} are reserved in version {version} and not zero"
        _require(message, "report_reserved", holds=not any(data[start:end]))
    _require("the policy lacks the bit that is always one", "report_policy", holds=bool(policy >> _MUST_BE_ONE_BIT & 1))
    _require("the policy sets unknown bits", "report_policy", holds=not policy & ~_POLICY_MASK)
    # The host may ask for a report too; it is marked with a level of all ones, and says nothing for the guest.
    _require("no guest asked for this report", "report_vmpl", holds=_number(data, 0x030, 4) <= _MOST_VMPL)
    _require(
        "the report is not signed with ECDSA P-384 and SHA-384",
        "report_algorithm",
        holds=_number(data, 0x034, 4) == _ECDSA_P384_SHA384,
    )
    _require("unknown platform bits are set", "report_platform", holds=not _number(data, 0x040, 8) & ~_PLATFORM_MASK)
    flags = _number(data, 0x048, 4)
    known = not flags & ~_FLAGS_MASK and flags >> 2 in {VCEK, VLEK, UNSIGNED}
    _require("unknown signing key or unknown flags", "report_flags", holds=known)
    for start in (_R_OFFSET, _S_OFFSET):
        rest = data[start + _SCALAR_BYTES : start + _SCALAR_FIELD_BYTES]
        _require("a part of the signature is too large for P-384", "report_signature", holds=not any(rest))


def _number(data: bytes, offset: int, size: int) -> int:
    return int.from_bytes(data[offset : offset + size], "little")


def _tcb(data: bytes, offset: int) -> bytes:
    return data[offset : offset + TCB_BYTES]


def _firmware(data: bytes, offset: int) -> tuple[int, int, int]:
    build, minor, major = data[offset : offset + 3]
    return major, minor, build


def _require(message: str, reason: str, *, holds: bool) -> None:
    if not holds:
        raise EvidenceError(message, reason=reason)
