"""Terms of a model, as JSON: those that keep all rules, and those of which each member is at its bounds or beyond."""

from random import Random
from typing import Any, Final

from assurance.parsers.term_rules import (
    DAY_MS,
    MOST_BYTES,
    MOST_ELEMENTS,
    MOST_MS,
    PAD_SIZES,
    RULES,
    size_of,
    without_defaults,
)

_OUTPUTS: Final = ("probabilities", "label", "Ü \U0001f512", '"\\', "x")
_DIMENSIONS: Final = ("inferences", "input_tokens", "output_tokens", "cached_tokens", "compute_ms")
_MOST_UNITS: Final = 2**53 - 1
#: How often a member is what no member may be.
_BEYOND: Final = 0.04


def answers(chance: Random) -> dict[str, Any]:
    """Return what may leave of a model's answers: any restriction there is, now and then as many as fit."""
    while True:
        rules = {rule["name"]: rule for rule in (_rule(chance) for _ in range(chance.randrange(5)))}
        terms: dict[str, Any] = {
            "outputs": list(rules.values()),
            "only_named": chance.random() < 0.5,
            "pad_bytes": chance.choice((0, *PAD_SIZES[:2], PAD_SIZES[-1])),
        }
        if rules and chance.random() < 0.3:
            _lengthen(terms, MOST_BYTES)
        if all(RULES["OutputRule"](rule) is None for rule in terms["outputs"]) and RULES["AnswerTerms"](terms) is None:
            return _written(terms)


def _rule(chance: Random) -> dict[str, Any]:
    top_k = chance.choice((None, 1, 5, MOST_ELEMENTS))
    return {
        "name": _name(chance),
        "hide": chance.random() < 0.3,
        "top_k": top_k,
        "fill": chance.choice(("zero", "lowest")),
        "decimals": chance.choice((None, 0, 3, 15)),
    }


def _name(chance: Random) -> str:
    return (chance.choice(_OUTPUTS) * chance.choice((1, 1, 1, 2, 256)))[:256]


def _lengthen(terms: dict[str, Any], most: int) -> None:
    """Make the last name as long as it takes that all is `most` bytes long."""
    last = terms["outputs"][-1]
    last["name"] += "x" * min(most - size_of(without_defaults(terms)), 256 - len(last["name"]))


def loose(model: str, chance: Random) -> dict[str, Any]:
    """Return terms of a model of which each member is at its bounds, or seldom beyond: some keep all rules.

    They are in their one encoding mostly, so that it is the rules that decide.
    """
    terms = {
        "model": model,
        "ttl_ms": _of(chance, (1_000, 30_000, DAY_MS), (999, DAY_MS + 1, 0, None)),
        "wipe_after_ms": _of(chance, (1_000, 600_000, 7 * DAY_MS), (999, 7 * DAY_MS + 1, -1)),
        "bound": _of(chance, (False, True), (0, 1, None)),
        "request_max": _units(chance),
        **_shared(chance),
    }
    return terms if chance.random() < _BEYOND else _written(terms)


def loose_policy(chance: Random) -> dict[str, Any]:
    """Return a whole policy of that kind, with what it meters."""
    also = chance.sample(_DIMENSIONS, chance.choice((0, 0, 1, 1, 2)))
    dimension = _of(chance, ("inferences", "inferences", "output_tokens"), ("compute_ms", "tokens", ""))
    known_afterwards = {"output_tokens", "compute_ms"} & {dimension, *also}
    units = {
        name: _of(chance, (1, 500, MOST_MS), (0, MOST_MS + 1, -1)) for name in _DIMENSIONS if name in known_afterwards
    }
    terms = {
        "version": _of(chance, (0, 1, _MOST_UNITS), (-1,)),
        "dial": _of(chance, ("bound", "strict", "balanced", "island"), ("Strict", "")),
        "ttl_ms": _of(chance, (1_000, 30_000, DAY_MS), (999, DAY_MS + 1)),
        "wipe_after_ms": _of(chance, (1_000, 7 * DAY_MS), (999, 7 * DAY_MS + 1)),
        "dimension": dimension,
        "required": ["model"],
        "max_unclosed_percent_per_instance": _of(chance, (1, 25, 100), (0, 101)),
        "max_unclosed_percent_per_borrower": _of(chance, (1, 50, 100), (0, 101)),
        "max_lease_units": _of(chance, (1, 10**12), (0, 10**12 + 1)),
        "max_attestation_age_ms": _of(chance, (0, DAY_MS), (-1,)),
        "also": also,
        "request_max": units if chance.random() > _BEYOND else _units(chance),
        **_shared(chance),
    }
    order = ("answers", "max_run_ms", "inputs")
    terms = {name: terms[name] for name in (*(one for one in terms if one not in order), *order)}
    return terms if chance.random() < _BEYOND else _written(terms)


def _shared(chance: Random) -> dict[str, Any]:
    """Return the members that a policy and what enclaves are told of it have in common."""
    return {
        "max_run_ms": _of(chance, (None, 1, MOST_MS), (0, MOST_MS + 1, -1)),
        "inputs": _of(chance, (None, {"finite": True}), ({}, {"finite": False}, {"finite": 1})),
        "answers": _of(chance, (None, answers(chance), _loose_answers(chance)), ({}, [], False)),
    }


def _loose_answers(chance: Random) -> dict[str, Any]:
    rules = [_loose_rule(chance) for _ in range(chance.choice((0, 1, 1, 2, 3)))]
    terms: dict[str, Any] = {
        "outputs": rules,
        "only_named": _of(chance, (False, True), (1, None)),
        "pad_bytes": _of(chance, (0, 0, *PAD_SIZES), (1, 512, 1_023, 1_025, 3_000, 2 * PAD_SIZES[-1], -1_024)),
    }
    if rules and chance.random() < 0.2:
        _lengthen(terms, MOST_BYTES + chance.choice((0, 1)))
    beyond: tuple[list[dict[str, Any]], ...] = (rules * 2, [{"name": f"{at}", "hide": True} for at in range(65)], [{}])
    return {**terms, "outputs": _of(chance, (rules,), beyond)}


def _loose_rule(chance: Random) -> dict[str, Any]:
    hide, lowest = chance.random() < 0.3, chance.random() < 0.3
    limited = not hide or chance.random() < _BEYOND
    return {
        "name": _of(chance, (_name(chance),), ("", "x" * 257)),
        "hide": hide,
        "top_k": _of(chance, (None, 1, 5, MOST_ELEMENTS), (0, MOST_ELEMENTS + 1, -1, True)) if limited else None,
        "fill": _of(chance, ("lowest" if lowest else "zero",), ("", "highest", None)),
        "decimals": _of(chance, (None, 0, 15), (16, -1, "1")) if limited else None,
    }


def _units(chance: Random) -> dict[str, Any]:
    names = [name for name in _DIMENSIONS if chance.random() < 0.2]
    return {name: _of(chance, (1, 500, _MOST_UNITS), (0, -1, 2**53)) for name in names}


def _of(chance: Random, within: tuple[Any, ...], beyond: tuple[Any, ...]) -> Any:  # noqa: ANN401 - any JSON
    return chance.choice(beyond if chance.random() < _BEYOND else within)


def _written(terms: dict[str, Any]) -> dict[str, Any]:
    written: dict[str, Any] = without_defaults(terms)
    return written
