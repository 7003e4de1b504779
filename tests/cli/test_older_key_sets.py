"""Who knows that a key was revoked says so, or has it in the file, and believes no key set from before."""

from pathlib import Path

import msgspec
import pytest
from tests.cli.conftest import Place
from tests.consumer.conftest import World

from aigovtool.codec import decode, encode
from aigovtool.crypto.keyfile import write_secret_file
from aigovtool.crypto.secret import Secret
from aigovtool.protocol.party import OperatorFile


def test_a_log_under_an_older_key_set_is_not_watched(place: Place, tmp_path: Path) -> None:
    """`audit checkpoint` and `audit compare`; the version that the custodian has is taken."""
    kept = str(tmp_path / "kept.txt")
    assert place.run("audit", "checkpoint", "-o", kept, "--key-set", "1").exit_code == 0
    assert place.run("audit", "compare", kept, "--key-set", "1").exit_code == 0
    for verb in (("checkpoint",), ("compare", kept)):
        refused = place.run("audit", *verb, "--key-set", "2")
        assert refused.exit_code == 5
        assert "key_set_rollback" in refused.output


def test_what_an_operators_file_knows_needs_no_option(place: Place, tmp_path: Path) -> None:
    """It remembers the newest that it saw; the same file is used to watch the log, or to witness it."""
    file = decode(place.operator.read_bytes(), OperatorFile)
    newer = tmp_path / "newer.json"
    write_secret_file(newer, Secret(encode(msgspec.structs.replace(file, key_set=2))))
    witness = str(tmp_path / "witness")
    assert place.run("audit", "witness", "init", witness, "--name", "w.example/1").exit_code == 0
    for verb in (("checkpoint",), ("witness", "sign", witness, "--first")):
        refused = place.run("audit", *verb, "--party", str(newer))
        assert refused.exit_code == 5
        assert "key_set_rollback" in refused.output


@pytest.mark.parametrize("version", [7, 8])
def test_an_enclave_under_an_older_key_set_is_not_asked(place: Place, tmp_path: Path, version: int) -> None:
    """`infer --key-set`: as `key_set_at_least` in the SDK."""
    world = World(tmp_path)
    try:
        enclave = world.enclave()
        source = tmp_path / "in.json"
        source.write_text("[[1, 2]]", encoding="utf-8")
        common = ("--credential", str(world.file), "--input", str(source), "--allow-simulated")
        asked = place.run("infer", "doubler", "--enclave", enclave.url, *common, "--key-set", str(version))
    finally:
        world.close()
    assert asked.exit_code == (0 if version == 7 else 5), asked.output
    assert len(enclave.charged) == (1 if version == 7 else 0)
