"""How a failure is told: what happened, why, what to do next; and the exit code that names its stage.

An exception that is not ours is a bug. Its text may quote a key or a prompt, so it is shown nowhere: people get an
error id, and the log named beside it gets the type and where it was raised.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from errno import EACCES, EDQUOT, EFBIG, EIO, EMFILE, ENAMETOOLONG, ENFILE, ENOSPC, EPERM, EROFS
from pathlib import Path
from secrets import token_hex
from traceback import extract_tb
from types import MappingProxyType
from typing import Final

import click
from msgspec import Struct

from aigovtool.cli.evidence.advice import FIXES as OF_EVIDENCE
from aigovtool.cli.screen import Screen
from aigovtool.errors import AIGovToolError, StorageError

EXIT_CODES: Final[Mapping[int, str]] = MappingProxyType(
    {
        0: "done",
        1: "a bug in this program; the details are in the log that the message names",
        2: "usage, or a configuration or key file that is missing, unsafe or wrong",
        3: "input that was refused: malformed, out of its domain, too large, not found, in conflict",
        4: "identity: no valid credential, or not allowed to do this",
        5: "verification: a signature, evidence, package, model, receipt or log is not what it claims to be",
        6: "governance says no: budget, lease or stop; nothing was charged",
        7: "a part of the system failed or does not answer",
        130: "interrupted",
    }
)
_INTERRUPTED: Final = 130
#: What a system says of its disks and files, where no role said it better. It is no bug.
_OF_THE_MACHINE: Final = frozenset({EACCES, EDQUOT, EFBIG, EIO, EMFILE, ENAMETOOLONG, ENFILE, ENOSPC, EPERM, EROFS})

#: What to do next, by reason, where whoever refused did not say: a role does not know the verbs of this command line.
_FIXES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cannot_bind": "choose another port with --listen, or end what listens there",
        "missing_key_file": "check the path; `aigovtool custodian init` and `operator`, `borrower` and `consumer add` "
        "write such files",
        "consumer_stopped": "ask the custodian: a stop can be lifted, a revocation cannot",
        "model_exists": "choose another name when you seal it: a name is never given out twice",
        "no_such_receipt": "the request id is in the answer's header field aigovtool-request-id; name the gateway's "
        "directory with --home",
        "no_such_model": "check the name; operators see all models with `aigovtool model list`",
        "no_policy": "set one with `aigovtool appraisal set POLICY.json`",
        "not_enrolled": "check the name; operators see who is enrolled and who is revoked with "
        "`aigovtool borrower list`, `consumer list` and `operator list`; a revoked party needs a new file, under "
        "another name",
        "not_lent": "ask the custodian to lend it to this borrower; operators see to whom it is lent with "
        "`aigovtool model list`",
        "party_exists": "choose another name: a name is never given out twice, not even a revoked one",
        "unreadable_log": "name the directory of a gateway that has run, with --home",
        "wrong_key": "check that files and custodian belong together: it was signed by another key",
    }
)
#: Which extra of this package brings a module that only one role needs.
_EXTRAS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "httptools": "consumer",
        "httpx": "consumer",
        "numpy": "consumer",
        "onnxruntime": "enclave",
        "psycopg": "postgres",
        "sqlalchemy": "custodian",
        "starlette": "consumer",
        "uvicorn": "consumer",
        "uvloop": "consumer",
    }
)
#: What the SDK's texts call things, and what they are called here.
_WORDS: Final = (
    ("pass allow_simulated=True, or --allow-simulated", "add --allow-simulated"),
    ("pass allow_simulated=True", "add --allow-simulated"),
    ("pass sealed=True, or --sealed", "add --sealed"),
    ("(request_budget)", "(`aigovtool budget request`)"),
    ("allow more time", "allow more time with --deadline"),
    ("request_id", "--request-id"),
)


class Failure(Struct, frozen=True, kw_only=True):
    """One failure as `--json` shows it."""

    code: str
    message: str
    reason: str | None
    fix: str | None
    retry_after_s: int | None
    exit_code: int


class FailureDocument(Struct, frozen=True, kw_only=True):
    """The one JSON document of a failed verb."""

    error: Failure


def tell(exception: BaseException, screen: Screen) -> int:
    """Show a failure and return the exit code.

    An exception that ends the process (`SystemExit`) is not for this function.
    """
    match exception:
        case AIGovToolError() as ours:
            failure = _of_ours(ours)
        case click.exceptions.NoArgsIsHelpError() as usage if not screen.json:
            click.echo(usage.format_message(), err=True)
            return usage.exit_code
        case click.ClickException() as usage:
            failure = _of_usage(usage)
        case ModuleNotFoundError(name=str(name)) if name.partition(".")[0] in _EXTRAS:
            failure = _of_missing(name.partition(".")[0])
        case click.Abort() | KeyboardInterrupt():
            failure = _simple("interrupted", "interrupted", _INTERRUPTED)
        case BrokenPipeError():
            _say_no_more()  # whoever read our output has had enough
            return 0
        case OSError(errno=number, strerror=str(why)) if number in _OF_THE_MACHINE:
            failure = _of_machine(exception.filename, why)
        case _:
            failure = _of_bug(exception)
    try:
        screen.failure(failure.message, failure.reason, failure.fix, FailureDocument(error=failure))
    except OSError:
        # The output is what failed: a program reads the exit code, people what there still is to read.
        _say_no_more()
        with contextlib.suppress(OSError):
            Screen(json=False).failure(failure.message, failure.reason, failure.fix, None)
    return failure.exit_code


def end_output(screen: Screen) -> int:
    """Send what is left of the output, and return the exit code: what did not arrive was not done."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return tell(error, screen)
    return 0


def _say_no_more() -> None:
    """Send standard output nowhere from now on: a second error at exit would say the same again."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _simple(code: str, message: str, exit_code: int, fix: str | None = None) -> Failure:
    return Failure(code=code, message=message, reason=None, fix=fix, retry_after_s=None, exit_code=exit_code)


def _of_ours(error: AIGovToolError) -> Failure:
    return Failure(
        code=error.code,
        message=error.message,
        reason=error.reason,
        fix=_fix(error),
        retry_after_s=error.retry_after_s,
        exit_code=error.exit_code,
    )


def _fix(error: AIGovToolError) -> str | None:
    if error.fix is None:
        return _FIXES.get(error.reason or "") or OF_EVIDENCE.get(error.reason or "")
    text = error.fix
    for theirs, ours in _WORDS:
        text = text.replace(theirs, ours)
    return text


def _of_usage(error: click.ClickException) -> Failure:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = "aigovtool" if context is None else context.command_path
    # click puts the choices of an option below each other; here a message is one line.
    return _simple("usage", " ".join(error.format_message().split()), 2, fix=f"see `{path} --help`")


def _of_missing(module: str) -> Failure:
    fix = f"install aigovtool with the extra {_EXTRAS[module]}: pip install 'CHECKOUT[{_EXTRAS[module]},cli]'"
    return _simple("configuration", f"{module} is not installed, and this verb needs it", 2, fix=fix)


def _of_machine(file: object, why: str) -> Failure:
    what = "the output cannot be written" if file is None else f"{str(file)[:200]} cannot be used"
    return _simple(StorageError.code, f"{what}: {why}", StorageError.exit_code)


def _of_bug(exception: BaseException) -> Failure:
    error_id = token_hex(8)
    log = _log_path()
    lines = [f"{datetime.now(UTC).isoformat()} error={error_id} type={type(exception).__qualname__}"]
    lines += [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in extract_tb(exception.__traceback__)]
    try:
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        where = f"details are in {log}"
    except OSError:
        where = f"{type(exception).__qualname__}; its details could not be logged"
    message = f"internal error {error_id} ({where})"
    return _simple("internal", message, 1, fix="this is a bug: report it with the error id and the details")


def _log_path() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    try:
        home = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    except RuntimeError:  # no home directory
        home = Path(tempfile.gettempdir()) / f"aigovtool-{os.geteuid()}"
    return home / "aigovtool" / "errors.log"
