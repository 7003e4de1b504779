"""Terms of models as they travel: in answers to enclaves and in operators' orders, signed by the right keys.

Each member is at its bounds or beyond, in every combination. What keeps the rules of the specification, read by hand,
must be taken, and what breaks one must be refused.
"""

from functools import cache
from random import Random
from typing import Any, Final

from aigovtool.codec import Message, decode, encode
from aigovtool.crypto.sign import Envelope, open_envelope
from aigovtool.errors import InputError, SignatureInvalidError
from aigovtool.protocol.commands import COMMAND, Command, SetModelTerms
from aigovtool.protocol.messages import ANSWER, Answer
from assurance.parsers import documents
from assurance.parsers.envelopes import envelope, key
from assurance.parsers.parser import Kind, Parts
from assurance.parsers.reading import NotJsonError, by_hand, unlike, unwrapped
from assurance.parsers.term_drawing import loose, loose_policy
from assurance.parsers.term_rules import without_defaults

#: By what tells them apart: the kind of statement, the message, and who signs it.
_CARRIERS: Final[dict[bytes, tuple[str, type[Message], str]]] = {
    b"answer": (ANSWER, Answer, "custodian"),
    b"order": (COMMAND, Command, "alice"),
}


@cache
def _genuine() -> tuple[Parts, ...]:
    orders = [one for one in documents.drawn(Command, 60) if isinstance(one.act, SetModelTerms)]
    found = [*((b"answer", one) for one in documents.drawn(Answer, 6)), *((b"order", one) for one in orders)]
    return tuple((carrier, _signed(carrier, encode(one))) for carrier, one in found)


def _signed(carrier: bytes, payload: bytes) -> bytes:
    kind, _, signer = _CARRIERS[carrier]
    return encode(envelope(kind, payload, [key(signer)]))


def _edit(parts: Parts, chance: Random) -> Parts:
    carrier, data = parts
    said: dict[str, Any] = by_hand(_payload(data))
    if carrier == b"answer":
        said["terms"] = [loose(f"model-{at}", chance) for at in range(chance.choice((1, 1, 1, 2)))]
    else:
        said["act"]["policy"] = loose_policy(chance)
    return carrier, _signed(carrier, documents.spelled(said).encode())


def _payload(data: bytes) -> bytes:
    return unwrapped(by_hand(data)["payload"]) or b""


def _read(parts: Parts) -> object:
    kind, message, signer = _CARRIERS[parts[0]]
    return open_envelope(decode(parts[1], Envelope), kind, message, [key(signer).public])


def _fault(parts: Parts) -> str | None:
    """Return what is wrong with a statement by the specification."""
    message, payload = _CARRIERS[parts[0]][1], _payload(parts[1])
    try:
        said = by_hand(payload)
    except NotJsonError as error:
        return str(error)
    terms = said.get("terms", []) if parts[0] == b"answer" else said["act"]["policy"]
    if (where := unlike(said, message) or documents.misspelled(payload, message)) is not None:
        return where
    return None if without_defaults(terms) == terms else "members at their defaults"


def _wrong(parts: Parts, value: object) -> str | None:
    if (where := _fault(parts)) is not None:
        return f"accepted with {where}"
    return documents.disagreement(_payload(parts[1]), _CARRIERS[parts[0]][1], value)


def _refused_wrongly(parts: Parts, error: Exception) -> str | None:
    return f"refused what keeps all rules: {error}" if _fault(parts) is None else None


def kind_of_terms(weight: int) -> Kind:
    """Return the kind of inputs that say on which terms a model is lent."""
    return Kind(
        name="terms",
        genuine=_genuine(),
        edit=_edit,
        read=_read,
        wrong=_wrong,
        refusals=(InputError, SignatureInvalidError),
        refused_wrongly=_refused_wrongly,
        weight=weight,
    )
