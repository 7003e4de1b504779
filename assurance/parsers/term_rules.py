"""What the terms of a model may say, held by hand to the leases specification, section 2: bounds, and between members.

JSON Schema says nothing of rules between members, and the bounds in a schema that was made of the product's types are
the product's. Those here are written down from the specification.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

_MIB: Final = 1 << 20
#: All of `answers` takes at most so many bytes.
MOST_BYTES: Final = 1_000
MOST_ELEMENTS: Final = 64 * _MIB
MOST_MS: Final = 60_000
DAY_MS: Final = 24 * 3_600_000
PAD_SIZES: Final = tuple(1 << power for power in range(10, 23))
_KNOWN_AFTERWARDS: Final = ("output_tokens", "compute_ms")
#: Of terms there is one encoding: members with these values are left out.
_DEFAULTS: Final[Mapping[str, Any]] = {
    "bound": False,
    "request_max": {},
    "max_run_ms": None,
    "inputs": None,
    "answers": None,
    "finite": False,
    "outputs": [],
    "only_named": False,
    "pad_bytes": 0,
    "hide": False,
    "top_k": None,
    "fill": "zero",
    "decimals": None,
    "also": [],
    **dict.fromkeys(("inferences", "input_tokens", "output_tokens", "cached_tokens", "compute_ms"), 0),
}


def size_of(value: object) -> int:
    """Return how many bytes a value takes as JSON without white space."""
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def _is_default(name: str, value: object) -> bool:
    return name in _DEFAULTS and type(value) is type(_DEFAULTS[name]) and value == _DEFAULTS[name]


def without_defaults(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return terms as they are written in their one encoding."""
    if isinstance(value, dict):
        return {name: without_defaults(one) for name, one in value.items() if not _is_default(name, one)}
    return [without_defaults(one) for one in value] if isinstance(value, list) else value


def _between(value: int | None, least: int, most: int) -> bool:
    return value is None or least <= value <= most


def _inputs(terms: Mapping[str, Any]) -> str | None:
    return None if terms.get("finite") is True else "terms of inputs that demand nothing"


def _output(rule: Mapping[str, Any]) -> str | None:
    top_k, decimals, fill = rule.get("top_k"), rule.get("decimals"), rule.get("fill", "zero")
    if not 1 <= len(rule["name"]) <= 256:
        return "an output with a name that none has"
    if not _between(top_k, 1, MOST_ELEMENTS) or not _between(decimals, 0, 15):
        return "an output of which more leaves than there is"
    if rule.get("hide") and (top_k is not None or decimals is not None):
        return "a hidden output of which something leaves"
    return "something to fill in where nothing is left out" if fill != "zero" and top_k is None else None


def _answers(terms: Mapping[str, Any]) -> str | None:
    rules, only, pad = terms.get("outputs", []), terms.get("only_named", False), terms.get("pad_bytes", 0)
    free = [one for one in rules if not (one.get("hide") or one.get("top_k") or one.get("decimals") is not None)]
    if len({one["name"] for one in rules}) < len(rules) or len(rules) > 64:
        return "an output with two rules, or too many"
    if not rules and not only and pad == 0:
        return "terms of answers that restrict nothing"
    if free and not only:
        return "a rule that restricts nothing"
    if only and all(one.get("hide") for one in rules):
        return "no output that may leave"
    if pad not in (0, *PAD_SIZES):
        return "padding to what is no power of two from 1 KiB to 4 MiB"
    return "terms of answers that take too many bytes" if size_of(without_defaults(terms)) > MOST_BYTES else None


def _times(terms: Mapping[str, Any]) -> str | None:
    if not _between(terms["ttl_ms"], 1_000, DAY_MS) or not _between(terms["wipe_after_ms"], 1_000, 7 * DAY_MS):
        return "authority or silence that lasts too short or too long"
    return None if _between(terms.get("max_run_ms"), 1, MOST_MS) else "a run that may last too short or too long"


def _policy(policy: Mapping[str, Any]) -> str | None:
    counts, most = [policy["dimension"], *policy.get("also", [])], policy.get("request_max", {})
    limited = [name for name, units in most.items() if units > 0]
    if len(set(counts)) < len(counts) or counts[0] == "compute_ms":
        return "what is metered is no measure"
    if sorted(limited) != sorted(set(counts) & set(_KNOWN_AFTERWARDS)):
        return "limits of a request that are not those of what is known only afterwards"
    if most.get("compute_ms", 0) > MOST_MS or most.get("output_tokens", 0) > 10**9:
        return "a request that may take too much"
    return _times(policy)


#: By the name of the message: what is wrong with a document that has all the members of its schema, or None.
RULES: Final[Mapping[str, Callable[[Mapping[str, Any]], str | None]]] = {
    "InputTerms": _inputs,
    "OutputRule": _output,
    "AnswerTerms": _answers,
    "ModelTerms": _times,
    "ServingPolicy": _policy,
}
