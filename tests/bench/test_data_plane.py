"""Who breaks off a measurement costs that measurement, if it is another's server."""

import subprocess
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from bench.data_plane import measured
from tests.bench.test_load import refused, served, serving, whole


def test_a_round_that_another_server_broke_off_is_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It has its other rounds; what happened is said."""
    with serving(refused) as server:
        other = replace(served(server, tmp_path), name="other", may_fail=True)
        assert list(measured(other, 2, 0.1)) == []
    assert "other, 2 connections: other failed" in capfd.readouterr().err


def test_a_connection_that_is_closed_meanwhile_breaks_a_round_off(tmp_path: Path) -> None:
    """At first all is well; then it answers, and is gone."""

    def once(handler: BaseHTTPRequestHandler) -> None:
        whole(handler)
        handler.close_connection = len(server.asked) > 1

    with serving(once) as server:
        other = replace(served(server, tmp_path), may_fail=True)
        assert list(measured(other, 1, 0.3)) == []
        assert len(server.asked) > 1


def test_a_server_whose_process_is_gone_has_no_more_rounds(tmp_path: Path) -> None:
    """Nobody can say what it took."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    with serving(whole) as server:
        other = replace(served(server, tmp_path), may_fail=True, pids=lambda: [gone.pid])
        assert list(measured(other, 1, 0.1)) == []
        with pytest.raises(OSError, match=str(gone.pid)):
            list(measured(replace(other, may_fail=False), 1, 0.1))


def test_a_round_that_ours_broke_off_ends_the_run(tmp_path: Path) -> None:
    """No figure of ours is left out."""
    with serving(refused) as server, pytest.raises(RuntimeError, match="503"):
        list(measured(served(server, tmp_path), 2, 0.1))
