"""Whose socket is at the other end of a connection over loopback, as Linux says."""

import os
import socket
from pathlib import Path

import pytest

from aigovtool.consumer.connect import users


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_our_own_connection_is_ours(family: socket.AddressFamily, host: str) -> None:
    """Over both kinds of loopback."""
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen()
        own = listener.getsockname()[:2]
        with socket.create_connection(own) as client:
            peer = client.getsockname()[:2]
            accepted, _ = listener.accept()
            with accepted:
                assert users.user_of(peer, own) == os.getuid()
                assert users.is_ours(peer, own)


def test_a_connection_that_is_not_there_is_nobodys() -> None:
    """Whoever cannot be found is refused."""
    assert users.user_of(("127.0.0.1", 1), ("127.0.0.1", 2)) is None
    assert not users.is_ours(("127.0.0.1", 1), ("127.0.0.1", 2))


def test_a_connection_of_the_first_family_over_a_socket_of_the_second_is_found() -> None:
    """The table has it as ::ffff:127.0.0.1."""
    with socket.socket(socket.AF_INET6) as client, socket.socket(socket.AF_INET) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(("::ffff:127.0.0.1", listener.getsockname()[1]))
        peer = ("127.0.0.1", client.getsockname()[1])
        assert users.user_of(peer, listener.getsockname()) == os.getuid()


def test_the_other_end_counts_and_not_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection has two sockets in the table; that of the server is always ours."""
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    line = "   {}: {} {} 01 00000000:00000000 00:00000000 00000000  {}        0 1 1 0000000000000000 20 4 30 10 -1\n"
    client, server = "0100007F:D431", "0100007F:1F40"
    table = tmp_path / "tcp"
    table.write_text(head + line.format(0, server, client, 1000) + line.format(1, client, server, 33))
    monkeypatch.setattr(users, "_TABLES", {socket.AF_INET: table})
    assert users.user_of(("127.0.0.1", 0xD431), ("127.0.0.1", 8000)) == 33


def test_root_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can do whatever the user can."""
    monkeypatch.setattr(users, "user_of", lambda *_: 0)
    assert users.is_ours(("127.0.0.1", 1), ("127.0.0.1", 2))


def test_without_a_table_nobody_can_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another system than Linux, or one that shows nothing of it."""
    monkeypatch.setattr(users, "_TABLES", {socket.AF_INET: tmp_path / "none"})
    assert not users.can_tell()
    assert users.user_of(("127.0.0.1", 1), ("127.0.0.1", 2)) is None
