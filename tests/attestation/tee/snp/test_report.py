"""The report of SEV-SNP, byte by byte, against the numbers of AMD 56860."""

import dataclasses

import pytest
from tests.attestation.tee.snp.maker import CPUID, FIELDS, GENOA, MILAN, TURIN, report

from aigovtool.attestation.tee.snp.product import Product, layout_of, product_of, read_tcb
from aigovtool.attestation.tee.snp.report import Report, parse_report
from aigovtool.errors import EvidenceError

#: Half-open ranges that each version reserves.
_RESERVED = {
    2: [(0x04C, 0x050), (0x188, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0), (0x330, 0x4A0)],
    3: [(0x04C, 0x050), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0), (0x330, 0x4A0)],
    5: [(0x04C, 0x050), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x208, 0x2A0), (0x330, 0x4A0)],
}


def reason(data: bytes) -> str | None:
    with pytest.raises(EvidenceError) as caught:
        parse_report(data)
    return caught.value.reason


def test_every_field_is_read_from_its_place() -> None:
    """A report whose fields all differ comes back field by field."""
    contents = {
        field: bytes((offset + index) * 7 & 0xFF for index in range(size)) for field, (offset, size) in FIELDS.items()
    }
    fixed = {
        "policy": (0x3F20135).to_bytes(8, "little"),
        "vmpl": (2).to_bytes(4, "little"),
        "signature_algo": (1).to_bytes(4, "little"),
        "platform": (0xA5).to_bytes(8, "little"),
        "flags": (0b111).to_bytes(4, "little"),
        "cpuid": bytes(CPUID[TURIN]),
    }
    contents |= fixed
    del contents["version"]
    data = report(version=5, **contents)  # type: ignore[arg-type]
    found = parse_report(data)
    numbers = {"guest_svn", "policy", "vmpl", "platform", "launch_mitigations", "current_mitigations"}
    expected: dict[str, object] = {
        field: int.from_bytes(value, "little") if field in numbers else value for field, value in contents.items()
    }
    for field in ("signature_algo", "flags", "cpuid"):
        del expected[field]
    for field in ("current_firmware", "committed_firmware"):
        build, minor, major = contents[field]
        expected[field] = (major, minor, build)
    expected |= {"version": 5, "author_key_en": True, "mask_chip_key": True, "signing_key": 1, "product": TURIN}
    expected |= {"signed": data[:0x2A0]}
    expected |= {"r": int.from_bytes(data[0x2A0:0x2E8], "little"), "s": int.from_bytes(data[0x2E8:0x330], "little")}
    assert {field.name: getattr(found, field.name) for field in dataclasses.fields(Report)} == expected


@pytest.mark.parametrize("length", [0, 1, 0x2A0, 1183, 1185, 2368])
def test_a_report_of_another_length_is_refused(length: int) -> None:
    """Truncated and extended reports are not reports."""
    assert reason((report() * 2)[:length]) == "report_length"


@pytest.mark.parametrize("version", [0, 1, 4, 6, 2 | 1 << 31])
def test_an_unknown_version_is_refused(version: int) -> None:
    """A version that nobody here knows may mean other things at the same places."""
    assert reason(report(version=version)) == "report_version"


@pytest.mark.parametrize("version", [2, 3, 5])
def test_each_reserved_byte_is_zero(version: int) -> None:
    """Every byte that a version reserves is refused by name when it is not zero, and no other byte is."""
    data = report(version=version)
    reserved = {index for start, end in _RESERVED[version] for index in range(start, end)}
    for index in range(1184):
        changed = bytearray(data)
        changed[index] ^= 0x40
        try:
            parse_report(bytes(changed))
        except EvidenceError as error:
            assert (error.reason == "report_reserved") == (index in reserved), hex(index)
        else:
            assert index not in reserved, hex(index)


@pytest.mark.parametrize("bit", [17, *range(26, 64)])
def test_unknown_bits_of_the_policy_are_refused(bit: int) -> None:
    """Bit 17 is always one; what no published version defines is zero."""
    assert reason(report(policy=0x20000 ^ 1 << bit)) == "report_policy"


@pytest.mark.parametrize("bit", range(8, 64))
def test_unknown_bits_of_the_platform_are_refused(bit: int) -> None:
    """A platform bit that nobody here knows might mean danger."""
    assert reason(report(platform=1 << bit)) == "report_platform"


@pytest.mark.parametrize("flags", [2 << 2, 3 << 2, 4 << 2, 5 << 2, 6 << 2, *(1 << bit for bit in range(5, 32))])
def test_unknown_signing_keys_and_flags_are_refused(flags: int) -> None:
    """Three signing keys are defined, and five bits in all."""
    assert reason(report(flags=flags)) == "report_flags"


@pytest.mark.parametrize("vmpl", [4, 0xFFFFFFFF])
def test_a_report_that_no_guest_asked_for_is_refused(vmpl: int) -> None:
    """The host gets reports too, marked with a privilege level of all ones: they are no word of the guest."""
    assert reason(report(vmpl=vmpl)) == "report_vmpl"


@pytest.mark.parametrize("algorithm", [0, 2, 0x101])
def test_another_signature_algorithm_is_refused(algorithm: int) -> None:
    """One algorithm is defined."""
    assert reason(report(signature_algo=algorithm)) == "report_algorithm"


@pytest.mark.parametrize("start", [0x2A0, 0x2E8])
def test_each_half_of_the_signature_has_48_bytes(start: int) -> None:
    """The fields are longer than numbers of P-384 are; the rest is zero."""
    for index in range(start + 48, start + 72):
        changed = bytearray(report())
        changed[index] = 1
        assert reason(bytes(changed)) == "report_signature"


@pytest.mark.parametrize(
    ("family", "models", "product"),
    [
        (0x19, range(0x10), MILAN),
        (0x19, range(0x10, 0x20), GENOA),
        (0x19, range(0xA0, 0xB0), GENOA),
        (0x1A, range(0x12), TURIN),
    ],
)
def test_products_are_told_by_cpuid(family: int, models: range, product: Product) -> None:
    """Each model of a family belongs to one product; Siena and Bergamo are Genoa."""
    assert {product_of(family, model) for model in models} == {product}


@pytest.mark.parametrize(
    ("family", "model"), [(0x17, 1), (0x19, 0x20), (0x19, 0x9F), (0x19, 0xB0), (0x1A, 0x12), (0x1B, 0), (0, 0)]
)
def test_an_unknown_processor_is_refused(family: int, model: int) -> None:
    """A desktop processor or a later product has no root here."""
    assert reason(report(cpuid=bytes((family, model, 0)))) == "product_unknown"


def test_layouts_of_the_tcb_version() -> None:
    """Turin put a component in front; the microcode stayed last."""
    raw = bytes((1, 2, 0, 0, 0, 0, 3, 4))
    for product in (MILAN, GENOA):
        assert read_tcb(raw, product) == {"bootloader": 1, "tee": 2, "snp": 3, "microcode": 4}
    turin = read_tcb(bytes((1, 2, 3, 4, 0, 0, 0, 5)), TURIN)
    assert turin == {"fmc": 1, "bootloader": 2, "tee": 3, "snp": 4, "microcode": 5}
    assert {len(layout_of(product)) for product in Product} == {8}
