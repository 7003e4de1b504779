"""Documents in files: read as what they are, and a signed one with the key that is to have signed it."""

from pathlib import Path

import msgspec
import pytest
from tests.attestation.test_appraisal import policy

from aigovtool.attestation.policy import POLICY, AppraisalPolicy
from aigovtool.attestation.reference_values import REFERENCE_VALUES
from aigovtool.cli.appraisal.policy_file import read_policy
from aigovtool.cli.document import read_document, write_document
from aigovtool.codec import encode
from aigovtool.crypto.sign import Envelope, SigningKey, seal
from aigovtool.errors import AIGovToolError, ConfigurationError, SignatureInvalidError

KEY, THIEF = SigningKey.generate(), SigningKey.generate()
FOR_OTHERS = KEY.public.raw.hex()


def read(path: Path, key: str | None = None) -> AppraisalPolicy:
    return read_document(path, POLICY, AppraisalPolicy, key, what="an appraisal policy", begin="begin anew")


def written(folder: Path, document: AppraisalPolicy | Envelope) -> Path:
    path = folder / "document.json"
    write_document(path, document, replace=True)
    return path


def test_a_document_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """Signed or not, it is the same document; and people can read the file."""
    assert read(written(tmp_path, policy())) == policy()
    assert (tmp_path / "document.json").read_text().count("\n") > 10
    assert read(written(tmp_path, seal(POLICY, policy(), KEY)), FOR_OTHERS) == policy()
    assert [path.name for path in tmp_path.iterdir()] == ["document.json"]


def test_a_document_is_believed_by_its_signature(tmp_path: Path) -> None:
    """Attack: signed by somebody else, changed after it was signed, or signed as another kind of document."""
    envelope = seal(POLICY, policy(), KEY)
    changed = msgspec.structs.replace(envelope, payload=encode(policy(version=9)))
    for forged in (seal(POLICY, policy(), THIEF), changed, seal(REFERENCE_VALUES, policy(), KEY)):
        with pytest.raises(SignatureInvalidError):
            read(written(tmp_path, forged), FOR_OTHERS)


def test_a_signature_that_nobody_checks_is_not_passed_over(tmp_path: Path) -> None:
    """A signed file without a key, an unsigned one with a key, and a key that is none: each with its reason."""
    signed, plain = seal(POLICY, policy(), KEY), policy()
    for document, key, reason in (
        (signed, None, "signer_not_given"),
        (plain, FOR_OTHERS, "not_signed"),
        (signed, "zz", "bad_key"),
        (signed, "00" * 31, "bad_key"),
        (signed, "00" * 32, "bad_key"),
    ):
        with pytest.raises(AIGovToolError) as caught:
            read(written(tmp_path, document), key)
        assert caught.value.reason == reason
        # A wrong value of an option is the input's fault, as with every other option.
        assert caught.value.exit_code == (3 if reason == "bad_key" else 2)


def test_a_signed_file_is_refused_with_a_way_on(tmp_path: Path) -> None:
    """Where the verb has an option for the key it is named; where it has none, the unsigned file is asked for."""
    signed = written(tmp_path, seal(POLICY, policy(), KEY))
    for option, word in (("--policy-signer", "--policy-signer"), (None, "the file that was signed")):
        with pytest.raises(ConfigurationError) as caught:
            read_policy(signed, option=option)
        assert word in (caught.value.fix or "")


def test_other_content_is_refused_and_no_file_is_written_over(tmp_path: Path) -> None:
    """Unreadable, unknown, too long; and a new document does not take the place of another one."""
    path = tmp_path / "document.json"
    with pytest.raises(ConfigurationError) as absent:
        read(path)
    assert (absent.value.reason, absent.value.fix) == ("unreadable_file", "begin anew")
    for content in (b"", b"{}", b"[" * 2_000_000, encode(policy())[:-1] + b',"more":1}'):
        path.write_bytes(content)
        with pytest.raises(ConfigurationError) as bad:
            read(path)
        assert bad.value.reason == "bad_document"
    with pytest.raises(ConfigurationError) as taken:
        write_document(path, policy(), replace=False)
    assert (taken.value.reason, taken.value.fix) == ("unwritable_file", "name another file, or remove this one")
    assert path.read_bytes() != encode(policy())


def test_a_document_is_not_written_through_a_link_that_lies_in_waiting(tmp_path: Path) -> None:
    """Somebody who can write to the same directory knows under which name it began once."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".document.json.tmp").symlink_to(victim)
    assert read(written(tmp_path, policy())) == policy()
    assert victim.read_text() == "mine"
    assert not list(tmp_path.glob(".document.json.*.partial"))
