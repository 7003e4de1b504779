"""What clients are tried for, and the table of it in docs/clients.md, which is made from this and from `programs`."""

from typing import Final

from tests.clients.programs import PROGRAMS, Program

#: Each feature, and what it means.
FEATURES: Final = {
    "metadata": "health, the model's inputs and outputs",
    "JSON": "tensors in JSON, both ways",
    "binary": "binary tensors, both ways",
    "BYTES": "texts, also empty ones and of several scripts",
    "large": "a request and an answer of 4 MB",
    "errors": "the refusal's own words reach whoever asked",
    "request id": "a repeated request is charged once",
    "concurrency": "24 requests at once, each with its own answer",
}
#: Tokens one by one come with language models.
LATER: Final = ("streaming",)

_HEAD: Final = """\
# Clients

Programs that people already have, asked to use a lent model through [`aigovtool connect`](connect.md): not one line of
them is for this project. Each cell is a test (`tests/clients`) against a real custodian, enclave and gateway in
processes of their own. The last two are this project's SDK, which speaks to the enclave itself.

"""
_TAIL: Final = """
Streams of tokens come with language models.
"""


def has(program: type[Program], feature: str) -> bool:
    """Return whether a client has a feature at all."""
    return feature not in program.cannot


def page() -> str:
    """Return the page."""
    rows = [("feature", *(f"`{one.name}`" if " " not in one.name else one.name for one in PROGRAMS))]
    rows += [
        (f"{feature}: {words}", *("yes" if has(program, feature) else "no" for program in PROGRAMS))
        for feature, words in FEATURES.items()
    ]
    head, *rest = ["| " + " | ".join(row) + " |" for row in rows]
    table = "\n".join([head, "|" + "---|" * len(rows[0]), *rest]) + "\n"
    notes = [
        f"* `{program.name}` has no {feature}: {why}."
        for program in PROGRAMS
        for feature, why in program.cannot.items()
    ]
    return _HEAD + table + "\n" + "\n".join(notes) + "\n" + _TAIL
