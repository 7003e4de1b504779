"""What parties sign and send each other: every kind of envelope, each under the keys that its reader pins; and answers.

`changed` are envelopes in which anything was changed, exchanged with another one's, or said otherwise: none may give
another value than was signed, whatever it is read as. `signed-anew` have other contents under the right signatures:
they are read strictly, or refused. `answers` are what custodian and enclave say unsigned, `problems` how they refuse.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from random import Random
from types import ModuleType
from typing import Any, Final, cast

from conformance.malformed import structured

from aigovtool import errors
from aigovtool.attestation.policy import POLICY, AppraisalPolicy
from aigovtool.attestation.reference_values import REFERENCE_VALUES, ReferenceLibrary
from aigovtool.cli.appraisal.policy_file import read_policy
from aigovtool.cli.reference.library import read_library
from aigovtool.codec import Message, decode, encode
from aigovtool.consumer.exchange import Reply
from aigovtool.consumer.problems import error_of
from aigovtool.crypto.sign import Envelope, VerifyKey, open_by_any, open_envelope, require_signed_by
from aigovtool.errors import AIGovToolError, ConfigurationError, InputError, SignatureInvalidError
from aigovtool.ids import key_id_of
from aigovtool.ledger import entry, proof, receipt
from aigovtool.operator.order import Order, read_order
from aigovtool.protocol import commands, messages, oip_metadata, release, session, stop, trust, views
from aigovtool.transport.problem import MEDIA_TYPE, describe
from aigovtool.transport.remote_problem import error_from_problem
from assurance.parsers import documents
from assurance.parsers.envelopes import changed, envelope, key, signed_anew, verified_by_hand
from assurance.parsers.files import in_file
from assurance.parsers.parser import Kind, Parser, Parts, edit_one
from assurance.parsers.reading import NotJsonError, by_hand, unwrapped
from assurance.parsers.terms import kind_of_terms

#: Of messages with alternatives as many that each is there.
_MANY: Final = 60
_REFUSALS: Final = (InputError, SignatureInvalidError, ConfigurationError)


@dataclass(frozen=True)
class Statement:
    """A kind of signed statement: who signs it, and how its reader opens it."""

    kind: str
    message: type[Message]
    signers: tuple[str, ...]
    open: Callable[[bytes, "Statement"], object]

    def pinned(self) -> list[VerifyKey]:
        """Return the keys that its reader pins."""
        return [key(name).public for name in self.signers]


def _by_all(data: bytes, of: Statement) -> object:
    return open_envelope(decode(data, Envelope), of.kind, of.message, of.pinned())


def _by_any(data: bytes, of: Statement) -> object:
    """As enclaves do, for whom keys of the custodian overlap while they are rotated."""
    return open_by_any(decode(data, Envelope), of.kind, of.message, [key("next").public, *of.pinned()])


def _after_one(data: bytes, of: Statement) -> object:
    """As the custodian does with a boot: first one signature, then what the payload says, then both."""
    sent = decode(data, Envelope)
    require_signed_by(sent, of.kind, of.pinned()[0])
    decode(sent.payload, of.message)
    return open_envelope(sent, of.kind, of.message, of.pinned())


def _key_set(data: bytes, of: Statement) -> object:
    return trust.open_key_set(decode(data, Envelope), of.pinned()[0], at_least=1)


def _document(data: bytes, of: Statement) -> object:
    """As the command line does with documents in files."""
    read = read_policy if of.message is AppraisalPolicy else read_library
    return in_file(data, lambda path: read(path, of.pinned()[0].raw.hex()))


@cache
def statements() -> tuple[Statement, ...]:
    """Return every kind but those of receipts and packages, which have parsers of their own."""
    by_custodian: tuple[tuple[str, type[Message]], ...] = (
        (stop.STOP_STATE, stop.StopState),
        (messages.ANSWER, messages.Answer),
        (release.CHALLENGE, release.Challenge),
        (release.ADMISSION, release.Admission),
        (release.RELEASE, release.KeyRelease),
    )
    by_instance: tuple[tuple[str, type[Message]], ...] = (
        (messages.RENEW, messages.Renew),
        (messages.WIPED, messages.Wiped),
        (messages.LISTEN, messages.Listen),
        (release.RELEASE_REQUEST, release.ReleaseRequest),
    )
    return (
        *(Statement(kind, message, ("custodian",), _by_any) for kind, message in by_custodian),
        *(Statement(kind, message, ("instance",), _by_all) for kind, message in by_instance),
        Statement(release.CHALLENGE_REQUEST, release.ChallengeRequest, ("borrower",), _by_all),
        Statement(release.BOOT, release.BootRequest, ("borrower", "instance"), _after_one),
        Statement(release.BOOT_AGAIN, release.BootRequest, ("borrower", "instance"), _after_one),
        Statement(commands.COMMAND, commands.Command, ("alice",), _by_all),
        Statement(commands.COMMAND, commands.Command, ("alice", "bob"), _by_all),
        Statement(trust.KEY_SET, trust.KeySet, ("root",), _key_set),
        Statement(POLICY, AppraisalPolicy, ("publisher",), _document),
        Statement(REFERENCE_VALUES, ReferenceLibrary, ("publisher",), _document),
    )


def _values(of: Statement) -> tuple[Message, ...]:
    if of.message is trust.KeySet:
        root = of.pinned()[0]
        drawn = documents.drawn(trust.KeySet, 3)
        return tuple(
            trust.KeySet(
                custodian=key_id_of(root.raw),
                version=at + 1,
                issued_at_ms=one.issued_at_ms,
                commands=[key("custodian").public.raw],
                log=[key("log").public.raw],
                credentials=one.credentials,
                keystore=one.keystore,
                attestation=one.attestation,
            )
            for at, one in enumerate(drawn)
        )
    return documents.drawn(of.message, {commands.Command: _MANY, messages.Answer: 9}.get(of.message, 3))


@cache
def _sealed(at: int) -> tuple[bytes, ...]:
    of = statements()[at]
    keys = [key(name) for name in of.signers]
    return tuple(encode(envelope(of.kind, encode(value), keys)) for value in _values(of))


@cache
def _genuine() -> tuple[Parts, ...]:
    """Return the number of a statement, and one of its envelopes, for each."""
    return tuple((str(at).encode(), one) for at in range(len(statements())) for one in _sealed(at))


def _edit_changed(parts: Parts, chance: Random) -> Parts:
    number, data = parts
    for _ in range(chance.choice((1, 1, 2))):
        data = changed(data, [one for _, one in _genuine()], chance)
    if chance.random() < 0.1:
        number, data = str(chance.randrange(len(statements()))).encode(), parts[1]
    return number, data


def _edit_signed(parts: Parts, chance: Random) -> Parts:
    of = statements()[int(parts[0])]
    return parts[0], signed_anew(parts[1], of.kind, [key(name) for name in of.signers], chance)


def _open(parts: Parts) -> object:
    of = statements()[int(parts[0])]
    return of.open(parts[1], of)


def _verified(parts: Parts) -> bytes | str:
    """Return the payload that the pinned keys have signed, verified without the product, or what is wrong."""
    of = statements()[int(parts[0])]
    try:
        return verified_by_hand(by_hand(parts[1]), of.kind, [one.raw for one in of.pinned()])
    except (NotJsonError, LookupError, TypeError) as error:
        return f"accepted what is no envelope: {error}"


def _wrong_changed(parts: Parts, value: object) -> str | None:
    payload = _verified(parts)
    if isinstance(payload, str):
        return payload
    for one in _sealed(int(parts[0])):
        if unwrapped(by_hand(one)["payload"]) == payload:
            return None if encode(value) == payload else "another value than was signed"
    # One statement may be of a kind that another signs as well.
    return _wrong_signed(parts, value) or "accepted what nobody has signed"


def _wrong_signed(parts: Parts, value: object) -> str | None:
    message = statements()[int(parts[0])].message
    payload = _verified(parts)
    if isinstance(payload, str):
        return payload
    return documents.disagreement(payload, message, value) or documents.misspelled(payload, message)


# --- Answers and problems ------------------------------------------------------------------------


@cache
def _answered() -> tuple[type[Message], ...]:
    """Return all messages of the modules in which answers are defined, also those that are added later.

    Those with a tag are read as one of several only, within others.
    """
    modules = (views, messages, release, session, oip_metadata, commands, stop, trust, entry, proof, receipt)
    found = {kind.__qualname__ + kind.__module__: kind for module in modules for kind in _messages(module)}
    return tuple(found[name] for name in sorted(found))


def _messages(module: ModuleType) -> Iterator[type[Message]]:
    for _, kind in inspect.getmembers(module, inspect.isclass):
        named = kind.__module__ == module.__name__ and not kind.__name__.startswith("_")
        if issubclass(kind, Message) and named and kind.__struct_config__.tag is None:
            yield kind


def _answers() -> tuple[Parts, ...]:
    return tuple(
        (str(at).encode(), encode(one))
        for at, kind in enumerate(_answered())
        for one in documents.drawn(kind, _MANY if kind in {entry.Entry, commands.Command} else 2)
    )


def _edit_second(parts: Parts, chance: Random) -> Parts:
    return parts[0], *edit_one(parts[1:], chance)


def _problems() -> tuple[Parts, ...]:
    """Return status, Retry-After, content type and body of refusals."""
    kinds = [
        kind for _, kind in sorted(inspect.getmembers(errors, inspect.isclass)) if issubclass(kind, AIGovToolError)
    ]
    found = [kind("not now", reason="so_it_is", fix="wait", retry_after_s=7) for kind in kinds]
    return tuple(
        (str(one.status).encode(), b"7", MEDIA_TYPE.encode(), encode(describe(one))) for one in found if type(one).code
    )


def _edit_problem(parts: Parts, chance: Random) -> Parts:
    status, again, media, body = parts
    body = structured.edit(body, chance)
    if chance.random() < 0.2:
        status = chance.choice((b"400", b"403", b"404", b"429", b"503", b"500", b"302", b"599", b"100"))
    if chance.random() < 0.2:
        again = chance.choice((b"", b"0", b"-1", b"1.5", b"9999999", b"1e3", b" 7", b"Wed, 21 Oct 2015 07:28:00 GMT"))
    if chance.random() < 0.1:
        media = chance.choice((b"application/json", b"", b"text/html"))
    return status, again, media, body


def _read_problem(parts: Parts) -> tuple[AIGovToolError, AIGovToolError]:
    status, again, media, body = int(parts[0]), parts[1].decode("latin-1"), parts[2].decode(), parts[3]
    headers = {"content-type": media, **({"retry-after": again} if again else {})}
    return error_from_problem(status, body, retry_after=again or None), error_of(
        Reply(status, headers, body, None), "the custodian"
    )


def _wrong_problem(parts: Parts, value: object) -> str | None:
    """A peer's document selects a class of ours, and its texts lose whatever a terminal would obey."""
    document = _object(parts[3])
    for found in cast("tuple[AIGovToolError, AIGovToolError]", value):
        texts = [found.message, found.fix or "", found.reason or ""]
        if not all(text.isprintable() for text in texts) or len(found.message) > 1_100 or not found.message:
            return "a text that a terminal would obey, or that is too long"
        if found.retry_after_s is not None and str(found.retry_after_s).encode() != parts[1].lstrip(b"0")[:6].rjust(
            1, b"0"
        ):
            return f"told to wait {found.retry_after_s} s"
        if found.reason in {"peer_refused", "no_problem"}:
            continue
        if document is None or document.get("code") != type(found).code:
            return f"taken for {type(found).__name__}, which nobody said"
        if found.reason is not None and found.reason != document.get("reason"):
            return "a reason that nobody gave"
    return None


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        found = by_hand(body)
    except NotJsonError:
        return None
    return found if isinstance(found, dict) else None


# --- Orders --------------------------------------------------------------------------------------


def _orders() -> tuple[Parts, ...]:
    return tuple((one,) for of in (12, 13) for one in _sealed(of))


def _edit_order(parts: Parts, chance: Random) -> Parts:
    if chance.random() < 0.4:
        return (changed(parts[0], [one for _, one in _genuine()], chance),)
    return (signed_anew(parts[0], commands.COMMAND, [key("alice")], chance),)


def _wrong_order(parts: Parts, value: object) -> str | None:
    """An order is read, not verified: what it shows to the second operator must be what its bytes say."""
    order = cast("Order", value)
    if (what := documents.disagreement(parts[0], Envelope, order.envelope)) is not None:
        return what
    payload = unwrapped(by_hand(parts[0])["payload"]) or b""
    return documents.disagreement(payload, commands.Command, order.command) or documents.misspelled(
        payload, commands.Command
    )


def _make() -> tuple[Kind, ...]:
    return (
        Kind(
            name="changed",
            genuine=_genuine(),
            edit=_edit_changed,
            read=_open,
            wrong=_wrong_changed,
            refusals=_REFUSALS,
            weight=6,
        ),
        Kind(
            name="signed-anew",
            genuine=_genuine(),
            edit=_edit_signed,
            read=_open,
            wrong=_wrong_signed,
            refusals=_REFUSALS,
            weight=6,
        ),
        Kind(
            name="answers",
            genuine=_answers(),
            edit=_edit_second,
            read=lambda parts: decode(parts[1], _answered()[int(parts[0])]),
            wrong=lambda parts, value: documents.disagreement(parts[1], _answered()[int(parts[0])], value),
            refusals=(InputError,),
            refused_wrongly=lambda parts, error: documents.refused_as_malformed(parts[1], error),
            weight=5,
        ),
        Kind(
            name="problems",
            genuine=_problems(),
            edit=_edit_problem,
            read=_read_problem,
            wrong=_wrong_problem,
            refusals=(),
            weight=1,
        ),
        Kind(
            name="orders",
            genuine=_orders(),
            edit=_edit_order,
            read=lambda parts: in_file(parts[0], read_order),
            wrong=_wrong_order,
            refusals=(ConfigurationError,),
            weight=1,
        ),
        kind_of_terms(weight=4),
    )


PARSER: Final = Parser(
    name="messages",
    claim="No signed statement is believed to say anything else than was signed, and none is read in two ways.",
    counts="envelopes of every kind that parties sign (requests and answers of metering, boot and key release, stop "
    "states, key sets, commands of all acts by one and by two, policies, libraries of reference values), changed in "
    "any part, put together of two, read as another kind; the same with contents that were changed and signed anew "
    "by the right keys; terms of models in answers and orders, each member at its bounds or beyond; saved orders; and "
    "unsigned answers of every type, and refusals. A changed envelope gives the value that was signed or none: "
    "signatures are verified once more without the product. What was signed anew is read as JSON by hand says it, is "
    "held to its schema, and is in its only spelling; terms are taken if they keep the specification's rules, and "
    "refused if not.",
    shows_not="that what a key signs is true, nor in which order messages may come: the simulation shows that.",
    covers=(
        *documents.COVERS,
        "src/aigovtool/attestation/binding.py",
        "src/aigovtool/attestation/model.py",
        "src/aigovtool/attestation/policy.py",
        "src/aigovtool/attestation/reference_values.py",
        "src/aigovtool/cli/appraisal/policy_file.py",
        "src/aigovtool/cli/document.py",
        "src/aigovtool/cli/reference/library.py",
        "src/aigovtool/consumer/problems.py",
        "src/aigovtool/crypto/locked.py",
        "src/aigovtool/crypto/secret.py",
        "src/aigovtool/crypto/sign.py",
        "src/aigovtool/ledger",
        "src/aigovtool/operator/order.py",
        "src/aigovtool/protocol",
        "src/aigovtool/transport/problem.py",
        "src/aigovtool/transport/remote_problem.py",
        "assurance/machine.py",
        "assurance/parsers/envelopes.py",
        "assurance/parsers/files.py",
        "assurance/parsers/messages.py",
        "assurance/parsers/terms.py",
    ),
    make=_make,
)
