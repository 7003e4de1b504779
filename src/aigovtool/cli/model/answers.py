"""What may leave in a model's answers, on the command line: options of `model add` and `model terms`, and words.

What no option names stays as it was ordered before; `NAME:all` takes a rule back.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from aigovtool.cli.words import count
from aigovtool.errors import InvalidValueError
from aigovtool.limits import MAX_PADDING_BYTES

if TYPE_CHECKING:
    from aigovtool.ledger.answers import AnswerTerms, OutputRule

Verb = Callable[..., None]

_FIX: Final = "write NAME:hide, NAME:all, or NAME: and some of top=3, fill=lowest, decimals=2, with commas"
_FIELDS: Final = {"top": "top_k", "fill": "fill", "decimals": "decimals"}


class AnswerWishes(NamedTuple):
    """What the options say; None and nothing where they say nothing."""

    rules: tuple[str, ...]
    only_named: bool | None
    pad_bytes: int | None

    @property
    def any(self) -> bool:
        """Whether an option was given."""
        return bool(self.rules) or self.only_named is not None or self.pad_bytes is not None


def answer_options(function: Verb) -> Verb:
    """Add the options that say what may leave; the verb gets them as `answers`."""

    @click.option(
        "--output",
        "rules",
        metavar="RULE",
        multiple=True,
        help="What may leave of an output; repeat. NAME:hide, NAME:top=3,fill=lowest,decimals=2 or NAME:all.",
    )
    @click.option(
        "--only-named/--also-unnamed", default=None, help="Outputs that no --output names never leave, or do."
    )
    @click.option(
        "--pad-answers",
        "pad_bytes",
        metavar="BYTES",
        type=click.IntRange(0, MAX_PADDING_BYTES),
        help="Send answers in a few sizes only, from this power of two on; 0: as long as they are.",
    )
    @wraps(function)
    def verb(
        *arguments: Any,  # noqa: ANN401 -- whatever the verb takes
        rules: tuple[str, ...],
        only_named: bool | None,
        pad_bytes: int | None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        function(*arguments, answers=AnswerWishes(rules, only_named, pad_bytes), **options)

    return verb


def changed(terms: "AnswerTerms | None", wishes: AnswerWishes) -> "AnswerTerms | None":
    """Return terms as the wishes have them, or None for those that restrict nothing.

    Raises:
        InvalidValueError: `bad_output_rule`, or what makes no sense together (`schema`).
    """
    from msgspec import to_builtins  # noqa: PLC0415

    from aigovtool.codec import convert  # noqa: PLC0415
    from aigovtool.ledger.answers import AnswerTerms  # noqa: PLC0415

    rules: dict[str, dict[str, object]] = {rule.name: to_builtins(rule) for rule in (terms.outputs if terms else ())}
    said = [_parsed(text) for text in wishes.rules]
    if len({rule["name"] for rule in said}) != len(said):
        raise InvalidValueError("an output has one rule", reason="bad_output_rule", fix="join them with commas")
    rules.update({str(rule["name"]): rule for rule in said})
    only_named = bool(terms and terms.only_named) if wishes.only_named is None else wishes.only_named
    pad_bytes = (terms.pad_bytes if terms else 0) if wishes.pad_bytes is None else wishes.pad_bytes
    kept = [rule for rule in rules.values() if only_named or len(rule) > 1]
    if not (kept or only_named or pad_bytes):
        return None
    return convert({"outputs": kept, "only_named": only_named, "pad_bytes": pad_bytes}, AnswerTerms)


def _parsed(text: str) -> dict[str, object]:
    """Return the members of a rule; of one that says "all", only its name."""
    name, _, says = text.rpartition(":")
    if not name:
        raise InvalidValueError(f"{text[:80]!r} names no output", reason="bad_output_rule", fix=_FIX)
    if says in {"all", "hide"}:
        return {"name": name} | ({"hide": True} if says == "hide" else {})
    rule: dict[str, object] = {"name": name}
    for part in says.split(","):
        word, _, value = part.partition("=")
        if word not in _FIELDS or _FIELDS[word] in rule or not (value.isascii() and value.isalnum()):
            raise InvalidValueError(f"{text[:80]!r} is no rule for an output", reason="bad_output_rule", fix=_FIX)
        rule[_FIELDS[word]] = int(value) if value.isdecimal() else value
    return rule


def answer_facts(terms: "AnswerTerms | None") -> list[tuple[str, str]]:
    """Return in words what leaves, and in which sizes."""
    rules: Sequence[OutputRule] = terms.outputs if terms else ()
    said = [_words(rule) for rule in rules]
    if terms is None or not terms.only_named:
        said.append("all other outputs, as they are" if said else "all outputs, as they are")
    else:
        said.append("no other output")
    pad_bytes = terms.pad_bytes if terms else 0
    sizes = f"one of a few, from {count(pad_bytes)} bytes on" if pad_bytes else "as long as they are"
    return [("what leaves", "; ".join(said)), ("sizes of answers", sizes)]


def _words(rule: "OutputRule") -> str:
    if rule.hide:
        return f"{rule.name}: never"
    parts = []
    if rule.top_k is not None:
        largest = "the largest" if rule.top_k == 1 else f"the {count(rule.top_k)} largest"
        others = "0" if rule.fill.value == "zero" else "the least number"
        parts.append(f"{largest} of each row, for the others {others}")
    if rule.decimals is not None:
        parts.append(f"{rule.decimals} decimal" + ("s" if rule.decimals != 1 else ""))
    return f"{rule.name}: " + (", ".join(parts) or "as it is")
