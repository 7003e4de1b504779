"""The file in which vendors' answers travel: `endorsements fetch` writes it, and it proves nothing by itself."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from aigovtool.cli.document import read_document

if TYPE_CHECKING:
    from aigovtool.attestation.model import Evidence
    from aigovtool.attestation.tee.fetched import Fetched

#: Intel's revocation lists are the largest answers, some 100 KiB each.
_MAX_BYTES: Final = 16 << 20


def read_answers(path: Path) -> "tuple[Fetched, ...]":
    """Return the answers in a file.

    Raises:
        ConfigurationError: `unreadable_file`, `bad_document`.
    """
    from aigovtool.attestation.tee.fetched import FETCHED, FetchedAnswers  # noqa: PLC0415

    begin = "write one with `aigovtool endorsements fetch`"
    read = read_document(
        path, FETCHED, FetchedAnswers, None, what="a file of endorsements", begin=begin, max_bytes=_MAX_BYTES
    )
    return read.answers


def with_answers(evidence: "Evidence", answers: "tuple[Fetched, ...]") -> "Evidence":
    """Return evidence with those of the answers that it needs; what they are worth is for its verifier to say.

    Raises:
        EvidenceError: all of it together is too large.
    """
    from aigovtool.attestation.tee.completion import Vendors  # noqa: PLC0415

    vendors, known = Vendors(), {answer.url: answer for answer in answers}
    for _ in range(2):  # which list is wanted depends on the certificate
        wanted = vendors.wanted(evidence).addresses
        evidence = vendors.completed(evidence, {url: known[url] for url in wanted if url in known})
    return evidence
