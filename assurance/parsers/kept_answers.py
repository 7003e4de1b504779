"""Files in which vendors' answers travel and are kept."""

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final, cast

from conformance.malformed import structured

from aigovtool.attestation.tee.fetched import Fetched, FetchedAnswers
from aigovtool.cli.endorsements.answers import read_answers
from aigovtool.codec import encode
from aigovtool.custodian.endorsements.kept import Kept, KeptAnswers
from aigovtool.errors import ConfigurationError
from aigovtool.limits import MAX_REVOCATION_LIST_BYTES
from assurance.parsers import documents, vendor_answers
from assurance.parsers.files import in_file, in_folder
from assurance.parsers.parser import Kind, Parts, edit_one
from assurance.parsers.reading import NotJsonError, by_hand, unlike

_MOST_ANSWERS: Final = 16 << 20


@cache
def _fetched() -> tuple[Fetched, ...]:
    found = [
        Fetched(
            url=url.decode(), fetched_at_ms=at, body=body, headers={header.decode(): chain.decode()} if header else {}
        )
        for at, (url, body, header, chain) in enumerate(vendor_answers.intel_answers())
    ]
    found += [
        Fetched(url=url.decode(), fetched_at_ms=9, body=body, headers={}) for url, body in vendor_answers.amd_answers()
    ]
    return tuple(found)


def _files() -> tuple[Parts, ...]:
    """Return the address of each answer, and the file of it."""
    kept = [Kept(answer=one, asker="st-mary", by_hand=at % 2 == 0) for at, one in enumerate(_fetched())]
    return tuple((one.answer.url.encode(), encode(one)) for one in kept)


class _NotKeptError(Exception):
    """A damaged file is as good as none."""


def _read_kept(parts: Parts) -> Kept:
    """Return what is kept at the address; nothing else may be found in the directory."""
    url, content = parts[0].decode(), parts[1]
    name = f"{'machine' if '?' in url and 'amd.com' in url else 'all'}-{sha256(parts[0]).hexdigest()}.json"

    def read(folder: Path) -> Kept:
        answers = KeptAnswers(folder)
        kept, everything = answers.read(url), answers.all()
        if kept is None:
            raise _NotKeptError(len(everything))
        return kept if everything == [kept] else everything[-1]

    return in_folder({name: content}, read)


def _wrong_kept(parts: Parts, value: object) -> str | None:
    kept = cast("Kept", value)
    if kept.answer.url != parts[0].decode():
        return "an answer is kept under another address"
    return documents.disagreement(parts[1], Kept, kept, 2 * MAX_REVOCATION_LIST_BYTES)


def _lost_wrongly(parts: Parts, _: Exception) -> str | None:
    try:
        read = by_hand(parts[1])
    except NotJsonError:
        return None
    if unlike(read, Kept) is not None or read["answer"]["url"] != parts[0].decode():
        return None
    return None if len(parts[1]) > 2 * MAX_REVOCATION_LIST_BYTES else "a file that is whole is as good as none"


def _wrong_answers(parts: Parts, value: object) -> str | None:
    answers = FetchedAnswers(answers=cast("tuple[Fetched, ...]", value))
    return documents.disagreement(parts[0], FetchedAnswers, answers, _MOST_ANSWERS)


def kinds() -> tuple[Kind, ...]:
    """Return the kinds of inputs that are such files."""
    answers = FetchedAnswers(answers=_fetched()[:4]), FetchedAnswers(answers=_fetched()[4:])
    return (
        Kind(
            name="answers",
            genuine=tuple((encode(one),) for one in answers),
            edit=edit_one,
            read=lambda parts: in_file(parts[0], read_answers),
            wrong=_wrong_answers,
            refusals=(ConfigurationError,),
        ),
        Kind(
            name="kept-answers",
            genuine=_files(),
            edit=lambda parts, chance: (parts[0], structured.edit(parts[1], chance)),
            read=_read_kept,
            wrong=_wrong_kept,
            refusals=(_NotKeptError,),
            refused_wrongly=_lost_wrongly,
        ),
    )
