"""`aigovtool infer` against an enclave in this process: real TLS, simulated evidence, real receipts."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from tests.consumer.conftest import MANIFEST, FakeEnclave, World

from aigovtool.cli.seen import require_newest_keys
from aigovtool.crypto import keyfile
from aigovtool.errors import BudgetExhaustedError, ConfigurationError
from aigovtool.ids import ModelId, digest_of
from aigovtool.protocol.trust import open_key_set

Ask = Callable[..., Result]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def enclave(world: World) -> FakeEnclave:
    return world.enclave()


@pytest.fixture
def ask(run: Callable[..., Result], world: World) -> Ask:
    source = world.directory / "in.json"
    source.write_text("[[1, 2], [3, 4]]", encoding="utf-8")

    def asked(enclave: str, *more: str) -> Result:
        common = ["--credential", str(world.file), "--input", str(source), "--allow-simulated"]
        return run("infer", "doubler", "--enclave", enclave, *common, *more)

    return asked


def test_the_exact_bodies_are_saved_and_compare_with_the_receipt(
    ask: Ask, run: Callable[..., Result], world: World, enclave: FakeEnclave
) -> None:
    """For this user alone; each fits its place in the receipt, and no other."""
    files = {name: world.directory / name for name in ("receipt", "request", "response")}
    options = [word for name, path in files.items() for word in (f"--save-{name}", str(path))]
    result = ask(enclave.url, *options)
    assert result.exit_code == 0, result.output
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
    verify = ["receipt", "verify", str(files["receipt"]), "--credential", str(world.file), "--allow-simulated"]
    both = ["--request", str(files["request"]), "--response", str(files["response"])]
    checked = run(*verify, *both, "--json")
    assert json.loads(checked.stdout)["bodies_checked"] == ["request", "response"]
    assert run(*verify, "--request", str(files["response"])).exit_code == 5


def test_a_file_in_the_way_is_found_before_anything_is_charged(ask: Ask, world: World, enclave: FakeEnclave) -> None:
    """The option that named it is named."""
    taken = world.directory / "taken"
    taken.touch()
    for option in ("--save-receipt", "--save-request", "--save-response"):
        result = ask(enclave.url, option, str(taken))
        assert result.exit_code == 2
        assert f"choose another name with {option}" in result.stderr
    assert not enclave.charged


def test_a_place_that_is_not_private_is_found_before_anything_is_charged(
    ask: Ask, world: World, enclave: FakeEnclave
) -> None:
    """A directory that others write to, such as /tmp: the answer would be paid for, and shown to nobody."""
    shared = world.directory / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    for option in ("--save-receipt", "--save-request", "--save-response"):
        result = ask(enclave.url, option, str(shared / "file"))
        assert result.exit_code == 2
        assert "unsafe_key_directory" in result.output
    assert enclave.charged == []


def test_an_answer_that_cannot_be_saved_is_asked_for_again_and_charged_once(
    ask: Ask, world: World, enclave: FakeEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the answer has come: the error says under which name it was asked for."""

    def no_space(*_: object, **__: object) -> None:
        raise ConfigurationError("cannot write: No space left on device", reason="unwritable_key_file")

    saving = ("--save-request", str(world.directory / "request"))
    with monkeypatch.context() as patched:
        patched.setattr(keyfile, "write_secret_file", no_space)
        full = ask(enclave.url, *saving)
    (key,) = enclave.charged
    assert f"--request-id {key}:" in full.output
    again = ask(enclave.url, *saving, "--request-id", key)
    assert again.exit_code == 0, again.output
    assert enclave.charged == [key]


def test_outputs_and_facts_stand_below_each_other(ask: Ask, enclave: FakeEnclave) -> None:
    """One column of names, one of values."""
    lines = ask(enclave.url).stdout.splitlines()
    assert len({len(line) - len(line[12:].lstrip()) for line in lines}) == 1
    assert lines[0].startswith("y           float32[2, 2]  2, 4, 6, 8")
    assert lines[1].startswith("n           int64[1]       2")


def test_the_wait_for_a_budget_ends_with_the_exit_code_of_a_budget(ask: Ask, enclave: FakeEnclave) -> None:
    """6, as documented, whether it was waited for or not."""
    for more in ([], ["--wait", "--deadline", "5"]):
        enclave.refusals = [BudgetExhaustedError("no units are left", retry_after_s=30)]
        result = ask(enclave.url, *more)
        assert result.exit_code == 6
        assert "no units are left" in result.stderr


def test_a_custodians_address_is_told_from_an_enclaves(ask: Ask, world: World) -> None:
    """Two addresses that are easily mixed up."""
    result = ask(world.custodian.served.url)
    assert (result.exit_code, "this is the custodian" in result.stderr) == (2, True)


def test_the_option_for_simulated_tees_is_named(run: Callable[..., Result], world: World, enclave: FakeEnclave) -> None:
    """As it is typed here, not as a program would write it."""
    source = Path(world.directory / "in.json")
    source.write_text("[[1, 2]]", encoding="utf-8")
    result = run("infer", "doubler", "--enclave", enclave.url, "--credential", str(world.file), "--input", str(source))
    assert result.exit_code == 5
    assert "add --allow-simulated" in result.stderr


def test_another_model_than_the_pinned_one_is_not_asked(ask: Ask, enclave: FakeEnclave) -> None:
    """It has the name, and is attested; only the digest tells. A digest that is cut short pins nothing, so is none."""
    assert ask(enclave.url, "--manifest", MANIFEST).exit_code == 0
    charged = len(enclave.charged)
    enclave.manifests[ModelId("doubler")] = digest_of(b"another model under its name")
    result = ask(enclave.url, "--manifest", MANIFEST)
    assert result.exit_code == 5
    assert "serves another model" in result.stderr
    assert ask(enclave.url, "--manifest", MANIFEST[:15]).exit_code == 3
    assert len(enclave.charged) == charged


def test_an_older_key_set_than_the_one_named_is_refused(ask: Ask, enclave: FakeEnclave) -> None:
    """Its version is what an operator tells after a key was stolen; the enclave shows 7."""
    assert ask(enclave.url, "--key-set", "7").exit_code == 0
    charged = len(enclave.charged)
    result = ask(enclave.url, "--key-set", "8")
    assert result.exit_code == 5
    assert "the key set is older" in result.stderr
    assert len(enclave.charged) == charged


def test_the_newest_key_set_is_remembered_from_run_to_run(ask: Ask, world: World, enclave: FakeEnclave) -> None:
    """A newer one is taken and remembered; an older one, or a second one of that version, is asked nothing."""
    seen = world.directory / "seen.json"
    for version in (7, 8, 8):
        enclave.key_set = world.key_set(version)
        assert ask(enclave.url, "--seen", str(seen)).exit_code == 0
    charged, kept = len(enclave.charged), seen.read_bytes()
    for key_set, words in (
        (world.key_set(7), "version 8 was seen already"),
        (world.key_set(8, issued_at_ms=2), "two different key sets"),
    ):
        enclave.key_set = key_set
        result = ask(enclave.url, "--seen", str(seen))
        assert (result.exit_code, words in " ".join(result.stderr.split())) == (5, True), result.stderr
    assert (len(enclave.charged), seen.read_bytes()) == (charged, kept)


def test_what_was_seen_of_one_custodian_says_nothing_of_another(
    ask: Ask, world: World, enclave: FakeEnclave, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A file that is mixed up is told as that, not as a thief at work; nor is one of something else taken."""
    other = World(tmp_path_factory.mktemp("other"))
    seen = world.directory / "seen.json"
    try:
        require_newest_keys(open_key_set(other.key_set(9), other.root.public), seen)
    finally:
        other.close()
    result = ask(enclave.url, "--seen", str(seen))
    assert (result.exit_code, "another custodian" in result.stderr) == (2, True), result.stderr
    seen.write_text('{"what": "policy", "version": 1}', encoding="utf-8")
    assert ask(enclave.url, "--seen", str(seen)).exit_code == 2
    assert not enclave.charged
