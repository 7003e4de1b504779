from aigovtool.enclave.engines.engine import PlainModel
from aigovtool.enclave.engines.interface import ModelInterface


def test_plaintext_is_let_go_of_after_a_load() -> None:
    """The buffers that decryption filled are zeroed, the graph's as soon as the library has its own."""
    graph, weights = bytearray(b"g" * 3_000_000), bytearray(b"w" * 3_000_000)
    model = PlainModel(ModelInterface((), ()), [("graph", graph), ("weights", weights)])
    assert model.take_graph() == b"g" * 3_000_000
    assert not any(graph)
    assert [name for name, _ in model.files] == ["weights"]
    model.wipe()
    assert not any(weights)
    assert not model.files


def test_plaintext_is_not_in_a_representation() -> None:
    """A model that ends up in a log shows its interface only."""
    assert "SECRET" not in repr(PlainModel(ModelInterface((), ()), [("graph", bytearray(b"SECRET"))]))
