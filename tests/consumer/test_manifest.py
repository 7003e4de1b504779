"""What a model's sealer says of it: believed because its digest is attested, and for no other reason."""

import pytest
from tests.consumer.conftest import MODEL, FakeEnclave, World

from aigovtool.codec import encode
from aigovtool.consumer import AsyncClient, Client
from aigovtool.errors import EvidenceError, FaultError, NotFoundError
from aigovtool.ids import Digest, digest_of
from aigovtool.package.manifest import Datatype, Description, Manifest, PackageFile, TensorSpec


def manifest(**changes: object) -> bytes:
    """Return a manifest in its only encoding."""
    tensor = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 2))
    members: dict[str, object] = {
        "format_version": 1,
        "model": MODEL,
        "engine": "onnx",
        "sealed_at_ms": 1,
        "sealer": bytes(32),
        "salt": bytes(32),
        "key_commitment": bytes(32),
        "files": (PackageFile(name="model.onnx", size_bytes=1, digest=Digest("sha256:" + "0" * 64)),),
        "inputs": (tensor,),
        "outputs": (tensor,),
        "opsets": (),
        "description": Description(labels=("no", "yes")),
    }
    return encode(Manifest(**members | changes))  # type: ignore[arg-type]


def prove(enclave: FakeEnclave, content: bytes) -> None:
    """Have the enclave hold, and prove, the model with this manifest."""
    enclave.manifests = {MODEL: digest_of(content)}
    enclave.manifest_bytes = {MODEL: content}


def test_the_manifest_of_a_model_is_the_one_that_was_proven(world: World, enclave: FakeEnclave) -> None:
    """All that its sealer signed of it."""
    prove(enclave, manifest())
    found = world.connect(enclave).manifest(MODEL)
    assert (found.model, found.description.labels) == (MODEL, ("no", "yes"))


async def test_it_is_read_on_asyncio_as_well(world: World, enclave: FakeEnclave) -> None:
    """The same."""
    prove(enclave, manifest())
    async with AsyncClient.connect(enclave.url, world.file, allow_simulated=True, clock=world.clock.clock()) as client:
        assert (await client.manifest(MODEL)).model == MODEL


def test_another_manifest_than_was_proven_is_refused(world: World, enclave: FakeEnclave) -> None:
    """Attack: other names for the classes, which turn a healthy patient into a sick one."""
    prove(enclave, manifest())
    enclave.manifest_bytes[MODEL] = manifest(description=Description(labels=("yes", "no")))
    with pytest.raises(EvidenceError) as caught:
        world.connect(enclave).manifest(MODEL)
    assert caught.value.reason == "wrong_manifest"


def test_what_was_proven_and_is_no_manifest_is_refused(world: World, enclave: FakeEnclave) -> None:
    """By a later version, for example."""
    prove(enclave, b'{"format_version":2}')
    with pytest.raises(FaultError) as caught:
        world.connect(enclave).manifest(MODEL)
    assert caught.value.reason == "bad_answer"


def test_a_model_that_is_not_served_has_none(client: Client) -> None:
    """It is said to be so before anything is asked for."""
    with pytest.raises(NotFoundError):
        client.manifest("another")
