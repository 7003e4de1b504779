"""A profile counts what an enclave does while it is asked, and sorts it by what it is for."""

import pytest
from bench.graphs import tiny
from bench.profile import made, part_of, profile, profile_part


def test_a_moment_of_an_enclave_is_looked_at() -> None:
    """Both processes work, samples are taken, and their shares are the whole."""
    found = profile("mlp", 8, tiny(), seconds=1.0)
    assert found.samples > 10
    assert found.parent_us > found.engine_us > 0
    assert sum(share.share for share in found.parts) == pytest.approx(1)
    assert {"HTTP", "TLS (asyncio, OpenSSL)"} <= {share.name for share in found.parts}


@pytest.mark.parametrize(
    ("module", "part"),
    [
        ("asyncio.sslproto", "TLS (asyncio, OpenSSL)"),
        ("asyncio.base_events", "event loop and sockets (asyncio)"),
        ("aigovtool.enclave.gateway.batch", "receipts, and what is sent"),
        ("aigovtool.enclave.gateway.fast_path", "reading requests"),
        ("aigovtool.enclave.engines.ipc", "to the engine and back"),
        ("aigovtool.enclave.charging", "metering"),
        ("aigovtool.protocol.oip_wire", "reading requests"),
        ("aigovtool.protocol.metering", "metering"),
        ("aigovtool.transport.wire", "HTTP"),
        ("collections", "the rest"),
        ("sslx", "the rest"),
    ],
)
def test_a_module_is_for_one_thing(module: str, part: str) -> None:
    """The longest name that fits decides."""
    assert part_of(module) == part


def test_the_page_says_what_was_counted() -> None:
    """In shares, and in microseconds of an answer."""
    counts = {"asyncio.sslproto|SSLProtocol.write": 1, "aigovtool.transport.wire|read_head": 3}
    found = made("mlp", 32, counts, parent_us=100, engine_us=20)
    page = profile_part((found,))
    assert "| - HTTP | 75.0%, 75 us |" in page
    assert "| engine child | 20 us |" in page
    assert "| `aigovtool.transport.wire: read_head` | 75.0% |" in page
