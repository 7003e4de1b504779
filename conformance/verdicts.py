"""How a verifier is asked, and whether its answer is the expected one.

The contract (README.md): `COMMAND FILE --at MS [--root FILE]... [--nonce HEX] [--policy FILE] --json`; exit code 0 is
yes, 5 is no, and anything else is no answer.
"""

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from conformance import suite
from conformance.suite import Expected, Vector

YES, NO = 0, 5
#: How the difference begins where there was no verdict at all.
NO_ANSWER = "no answer"
_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    """What came back: an exit code, the document (empty if there was none), and why there is neither."""

    code: int
    document: dict[str, Any]
    failed: str = ""


#: Asks one verifier about one vector whose files lie in a folder.
Ask = Callable[[Vector, Path], Answer]


def arguments(vector: Vector, folder: Path, file: Path) -> list[str]:
    """Return what stands behind the command."""
    found = [str(file), "--at", str(vector.at_ms)]
    for root in vector.roots:
        found += ["--root", str(folder / root)]
    if vector.nonce is not None:
        found += ["--nonce", vector.nonce]
    if vector.policy is not None:
        found += ["--policy", str(folder / vector.policy)]
    return [*found, "--json"]


def command(words: Sequence[str]) -> Ask:
    """Return who asks by starting a command."""

    def ask(vector: Vector, folder: Path) -> Answer:
        with tempfile.TemporaryDirectory(prefix="conformance-") as place:
            file = Path(place) / "evidence.json"
            file.write_bytes(suite.bundle(vector, folder))
            whole = [*words, *arguments(vector, folder, file)]
            try:
                done = subprocess.run(  # noqa: S603 - it is what was asked for
                    whole, capture_output=True, check=False, timeout=_SECONDS
                )
            except subprocess.TimeoutExpired:
                return Answer(-1, {}, f"more than {_SECONDS} seconds")
            except OSError as error:
                return Answer(-1, {}, error.strerror or "it cannot be started")
        return Answer(done.returncode, _document(done.stdout))

    return ask


def _document(output: bytes) -> dict[str, Any]:
    try:
        found = json.loads(output)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def in_process(vector: Vector, folder: Path) -> Answer:
    """Ask AIGovTool's verifier in this process: the same code without a start for each vector."""
    from aigovtool.attestation.model import Evidence, TeeType  # noqa: PLC0415
    from aigovtool.cli.appraisal.policy_file import read_policy  # noqa: PLC0415
    from aigovtool.cli.evidence.verb import judge, verifier_for  # noqa: PLC0415

    data, endorsements = suite.parts(vector, folder)
    evidence = Evidence(tee=TeeType(vector.tee), data=data, endorsements=endorsements)
    verifier = verifier_for(evidence.tee, [folder / root for root in vector.roots], vector.nonce)
    policy = None if vector.policy is None else read_policy(folder / vector.policy)
    verdict = judge(evidence, verifier.examine(evidence, vector.at_ms), vector.at_ms, policy)
    answered: dict[str, Any] = msgspec.to_builtins(verdict)
    return Answer(YES if verdict.genuine and verdict.acceptable is not False else NO, answered)


def differences(expected: Expected, answer: Answer, *, reasons: bool) -> list[str]:
    """Return where an answer is not the expected one.

    Reasons and what evidence says are AIGovTool's words: they are compared with `reasons` only. The reason is that of
    any failed step, because verifiers make their steps in another order.
    """
    if answer.code not in {YES, NO}:
        return [f"{NO_ANSWER}: {answer.failed or f'exit code {answer.code}'}"]
    told = answer.document
    if not isinstance(told.get("genuine"), bool):
        return [f"{NO_ANSWER}: no document with the member genuine"]
    found: list[str] = []
    if told["genuine"] is not expected.genuine:
        wanted, got = _genuine(expected.genuine, expected.reason), _genuine(told["genuine"], told.get("reason"))
        found.append(_difference("genuine", wanted, got))
    if expected.acceptable is not None and told.get("acceptable") is not expected.acceptable:
        found.append(_difference("acceptable", _word(expected.acceptable), _word(told.get("acceptable"))))
    code = YES if expected.genuine and expected.acceptable is not False else NO
    if answer.code != code:
        found.append(_difference("exit code", code, answer.code))
    return found + (_words_of(expected, told) if reasons and not found else [])


def _difference(what: str, wanted: object, got: object) -> str:
    return f"{what}: expected {wanted}, got {got}"


def _genuine(genuine: bool, reason: object) -> str:  # noqa: FBT001 - it is the answer
    return _word(genuine) if genuine or reason is None else f"no ({reason})"


def _word(answer: object) -> str:
    return "nothing" if answer is None else "yes" if answer is True else "no" if answer is False else repr(answer)


def _words_of(expected: Expected, told: dict[str, Any]) -> list[str]:
    given = {told.get("reason"), *(step.get("reason") for step in told.get("steps") or ())}
    found = []
    if expected.reason not in {None, *given}:
        found.append(_difference("reason", expected.reason, told.get("reason")))
    if "internal" in given:
        found.append("reason: internal")
    if expected.refused is not None and told.get("refused") != expected.refused:
        found.append(_difference("refused", expected.refused, told.get("refused")))
    says = told.get("says") or {}
    other = _other(expected.says, says)
    return found + [_difference(f"says.{path}", repr(wanted), repr(seen)) for path, wanted, seen in other]


def _other(wanted: dict[str, Any], said: dict[str, Any], path: str = "") -> list[tuple[str, object, object]]:
    """Return what is said otherwise than wanted; a text that ends with `...` is the beginning of one."""
    found: list[tuple[str, object, object]] = []
    for name, value in wanted.items():
        seen = said.get(name)
        if isinstance(value, dict):
            found += _other(value, seen if isinstance(seen, dict) else {}, f"{path}{name}.")
        elif isinstance(value, str) and value.endswith("..."):
            same = isinstance(seen, str) and seen.startswith(value[:-3])
            found += [] if same else [(path + name, value, seen)]
        elif seen != value:
            found.append((path + name, value, seen))
    return found
