"""`aigovtool infer`: ask a model once, from a file, with everything verified on the way."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
from msgspec import Struct

from aigovtool.cli.credentials import require_free
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import FILE, FILE_OR_DASH, Seconds, Verb, key_set_option
from aigovtool.cli.words import amount, short
from aigovtool.errors import AIGovToolError, InputError, InvalidValueError, NotFoundError, TooLargeError
from aigovtool.limits import MAX_INFER_BODY_BYTES, MAX_INFER_JSON_BYTES

if TYPE_CHECKING:
    import numpy as np

    from aigovtool.consumer import Client
    from aigovtool.consumer.result import Result
    from aigovtool.ledger.units import UnitVector
    from aigovtool.package.manifest import Manifest

_SHOWN_ELEMENTS: Final = 16
_STDIN: Final = "-"
_PICTURES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})


class Picture(NamedTuple):
    """The bytes of a picture's file."""

    content: bytes


class Output(Struct, frozen=True, kw_only=True):
    """One output: elements in row-major order; `NaN`, `Infinity` and `-Infinity`, which JSON has not, are texts."""

    name: str
    datatype: str
    shape: list[int]
    data: list[object]


class Class(Struct, frozen=True, kw_only=True):
    """A class that the model's sealer has named, and what the model gave it."""

    label: str
    value: float | str


class Answer(Struct, frozen=True, kw_only=True):
    """A verified answer."""

    model: str
    request_id: str
    outputs: list[Output]
    units_remaining: int
    remaining: "UnitVector"
    manifest: str
    instance: str
    tee: str
    simulated: bool
    receipt_file: str | None
    classes: list[Class] = []


@click.command(
    cls=Verb,
    example="aigovtool infer xray --enclave https://10.0.0.7:8443 --credential radiology.json --input image.npy",
)
@click.argument("model")
@click.option("--enclave", "url", required=True, help="https://HOST:PORT of the enclave.")
@click.option("--credential", type=FILE, required=True, help="Your consumer file.")
@click.option(
    "--input",
    "source",
    type=FILE_OR_DASH,
    required=True,
    help="A picture (PNG, JPEG, BMP, TIFF), a .npy array, an .npz with arrays by input name, or JSON (- reads it from "
    "standard input).",
)
@click.option("--allow-simulated", is_flag=True, help="DEVELOPMENT ONLY: also accept a simulated TEE.")
@click.option(
    "--sealed",
    is_flag=True,
    help="A load balancer ends TLS before the enclave: have nobody but the attested enclave read what is asked.",
)
@click.option("--manifest", metavar="DIGEST", help="The manifest digest that the model should have.")
@key_set_option
@click.option("--seen", type=FILE, help="Remember the newest key set of the custodian here; refuse an older one.")
@click.option("--wait", is_flag=True, help="Wait while the budget is used up or held, instead of failing.")
@click.option("--deadline", "deadline_s", type=Seconds(0.1, 86_400), help="Seconds for all of it.")
@click.option("--request-id", help="Names this request: repeated in ten minutes, it is charged once by one enclave.")
@click.option("--save-receipt", type=FILE, help="Write the receipt here, for `aigovtool receipt verify`.")
@click.option("--save-request", type=FILE, help="Write the exact request body here, to compare with the receipt.")
@click.option("--save-response", type=FILE, help="Write the exact answer's body here, to compare with the receipt.")
@click.pass_obj
def infer(
    screen: Screen,
    *,
    model: str,
    url: str,
    credential: Path,
    source: str,
    deadline_s: float | None,
    request_id: str | None,
    manifest: str | None,
    key_set_at_least: int,
    seen: Path | None,
    save_receipt: Path | None,
    save_request: Path | None,
    save_response: Path | None,
    allow_simulated: bool,
    sealed: bool,
    wait: bool,
) -> None:
    """Attest the enclave, ask MODEL once, verify the receipt, and show the answer.

    A picture becomes the model's input as its sealer says in the manifest, whose digest is attested.

    With --manifest nothing is sent to an enclave that serves another model under that name; ask the custodian's
    operator for the digest, which `model show` shows. Give --seen where you ask more than once: whoever stole a key
    that the custodian has revoked since is then not believed any more.
    """
    from aigovtool.cli.seen import require_newest_keys  # noqa: PLC0415
    from aigovtool.consumer import Client  # noqa: PLC0415
    from aigovtool.consumer.pictures import picture_input  # noqa: PLC0415

    _require_places({"--save-receipt": save_receipt, "--save-request": save_request, "--save-response": save_response})
    read = _read(source)
    with Client.connect(
        url,
        credential,
        models=None if manifest is None else {model: manifest},
        allow_simulated=allow_simulated,
        sealed=sealed,
        key_set_at_least=key_set_at_least,
    ) as client:
        if seen is not None:
            require_newest_keys(client.key_set, seen)
        _warn(screen, client)
        described = _described(client, model, needed=isinstance(read, Picture))
        inputs = picture_input(described, read.content) if isinstance(read, Picture) and described is not None else read
        result = client.infer(model, inputs, request_id=request_id, wait=wait, deadline_s=deadline_s)
    _save_all(result, receipt=save_receipt, request=save_request, response=save_response)
    answer = _answer(result, described, save_receipt)
    screen.show(answer, lambda: _render(screen, answer))


def _warn(screen: Screen, client: "Client") -> None:
    """Say what somebody should know of the enclave before the answer is used."""
    if client.evidence.tee.value == "simulated":
        screen.banner()
    elif client.warnings:
        screen.banner("; ".join(client.warnings))


def _described(client: "Client", model: str, *, needed: bool) -> "Manifest | None":
    """Return the model's manifest; None from an enclave of an earlier version, if it can be done without."""
    try:
        return client.manifest(model)
    except NotFoundError:
        if not needed:
            return None
        raise InvalidValueError(
            "this enclave does not say how a picture becomes an input: it is of an earlier version",
            reason="no_picture",
            fix="give arrays (.npy, .npz, JSON)",
        ) from None


def _require_places(places: Mapping[str, Path | None]) -> None:
    """Refuse what cannot be saved before it is asked for: what was charged must not be lost because of where it goes.

    Raises:
        ConflictError, ConfigurationError: such a file is there already, or others may write where it would be.
    """
    from aigovtool.crypto.keyfile import require_private_place  # noqa: PLC0415

    for option, path in places.items():
        if path is not None:
            require_free(path, option)
            require_private_place(path.absolute())


def _save_all(result: "Result", *, receipt: Path | None, request: Path | None, response: Path | None) -> None:
    try:
        if receipt is not None:
            result.save_receipt(receipt.absolute())
        _save(request, result.request_body)
        _save(response, result.response_body)
    except AIGovToolError as error:
        again = f"repeat it with --request-id {result.request_id}"
        error.fix = f"mend that, and {again}: within ten minutes it is charged once"
        raise


def _save(path: Path | None, body: bytes) -> None:
    """Write a body, which is as confidential as what was asked, for this user alone."""
    from aigovtool.crypto.keyfile import write_secret_file  # noqa: PLC0415
    from aigovtool.crypto.secret import Secret  # noqa: PLC0415

    if path is not None:
        with Secret(body) as content:
            write_secret_file(path.absolute(), content)


def _read(source: str) -> object:
    """Return one array, or arrays by name.

    Raises:
        TooLargeError, MalformedError, InvalidValueError: the file is not usable as input.
    """
    try:
        if source == _STDIN:
            return _from_json(sys.stdin.buffer.read(MAX_INFER_JSON_BYTES + 1), "standard input")
        path = Path(source)
        is_of_arrays, is_picture = path.suffix in {".npy", ".npz"}, path.suffix.lower() in _PICTURES
        with path.open("rb") as file:
            data = file.read((MAX_INFER_BODY_BYTES if is_of_arrays or is_picture else MAX_INFER_JSON_BYTES) + 1)
        if is_picture:
            return Picture(data)
        return _from_numpy(data, path) if is_of_arrays else _from_json(data, source)
    except OSError as error:
        raise InvalidValueError(
            f"cannot read {source}: {error.strerror}", reason="unreadable_input", fix="name a file with --input"
        ) from None


def _from_json(data: bytes, source: str) -> object:
    from aigovtool.codec import decode  # noqa: PLC0415

    try:
        value = decode(data, object, max_bytes=MAX_INFER_JSON_BYTES)
    except InputError as error:
        fix = "give JSON, or a file whose name ends in .npy or .npz"
        raise type(error)(f"{source}: {error.message}", reason=error.reason, fix=fix) from None
    if isinstance(value, list | Mapping | int | float):
        return value
    fix = "give nested lists, or an object of them by input name"
    raise InvalidValueError(f"{source} holds no array", reason="bad_input", fix=fix)


def _from_numpy(data: bytes, path: Path) -> object:
    from aigovtool.cli.array_file import array_in, arrays_in  # noqa: PLC0415

    if len(data) > MAX_INFER_BODY_BYTES:
        raise TooLargeError(f"{path} is larger than any request", reason="input_too_large")
    try:
        return array_in(data) if path.suffix == ".npy" else arrays_in(data)
    except InputError as error:
        error.message = f"{path}: {error.message}"
        raise


def _answer(result: "Result", described: "Manifest | None", receipt_file: Path | None) -> Answer:
    from aigovtool.consumer.pictures import ranked  # noqa: PLC0415

    found = [] if described is None else ranked(described, list(result.outputs.values()))
    statement = result.statement
    return Answer(
        model=result.model,
        request_id=result.request_id,
        outputs=[
            Output(name=name, datatype=str(array.dtype), shape=list(array.shape), data=_elements(array))
            for name, array in result.outputs.items()
        ],
        units_remaining=result.units_remaining,
        remaining=result.remaining,
        manifest=statement.manifest,
        instance=statement.instance,
        tee=statement.tee,
        simulated=statement.tee == "simulated",
        receipt_file=None if receipt_file is None else str(receipt_file),
        classes=[Class(label=one.label, value=_element(one.value)) for one in found],
    )


def _elements(array: "np.ndarray[Any, Any]") -> list[Any]:
    flat: list[Any] = array.ravel().tolist()
    return [_element(value) for value in flat] if array.dtype.kind == "f" else flat


def _element(value: float) -> float | str:
    """Return a number as JSON can say it: `null` would be no answer."""
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _render(screen: Screen, answer: Answer) -> None:
    outputs = [(output.name, (_shape(output), _values(output))) for output in answer.outputs]
    classes = [(one.label, f"{one.value:.4g}" if isinstance(one.value, float) else one.value) for one in answer.classes]
    screen.facts(
        [
            *classes,
            *outputs,
            ("units left", amount(answer.remaining)),
            ("receipt", "verified" if answer.receipt_file is None else f"verified, saved in {answer.receipt_file}"),
            ("enclave", f"{short(answer.instance)} on {'SIMULATED TEE' if answer.simulated else answer.tee}"),
            ("request", answer.request_id),
        ]
    )


def _shape(output: Output) -> str:
    return f"{output.datatype}{output.shape}"


def _values(output: Output) -> str:
    shown = ", ".join(_number(value) for value in output.data[:_SHOWN_ELEMENTS])
    return shown + (f", ... ({len(output.data)} in all)" if len(output.data) > _SHOWN_ELEMENTS else "")


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
