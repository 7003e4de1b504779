"""What was seen of a document or a key set, by several programs at once and where something else lies in its place."""

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from tests.consumer.conftest import World

from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.cli.document import read_document
from aigovtool.cli.seen import Seen, SeenKeys, require_newest, require_newest_keys
from aigovtool.errors import AppraisalError, ConfigurationError, SignatureInvalidError
from aigovtool.protocol.trust import open_key_set

VERSIONS = range(1, 33)
ROUNDS = 12


def _policies(_: Path) -> Callable[[int, Path], None]:
    def see(version: int, file: Path) -> None:
        require_newest(AppraisalPolicy(version=version, accepted=()), file)

    return see


def _key_sets(folder: Path) -> Callable[[int, Path], None]:
    world = World(folder)
    sets = {version: open_key_set(world.key_set(version), world.root.public) for version in VERSIONS}
    world.close()
    return lambda version, file: require_newest_keys(sets[version], file)


@pytest.mark.parametrize(("kind", "made"), [(Seen, _policies), (SeenKeys, _key_sets)])
def test_what_several_programs_see_at_once_is_the_newest(
    kind: type[Seen] | type[SeenKeys], made: Callable[[Path], Callable[[int, Path], None]], tmp_path: Path
) -> None:
    """Whoever compared before another one wrote does not write something older over that."""
    see, order = made(tmp_path), list(VERSIONS)

    def see_one(version: int, file: Path) -> None:
        with suppress(AppraisalError, SignatureInvalidError):
            see(version, file)

    for number in range(ROUNDS):
        file = tmp_path / f"seen{number}.json"
        random.Random(number).shuffle(order)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(see_one, order, [file] * len(order)))
        found = read_document(file, "seen.v1", kind, None, what="", begin="")
        assert found.version == max(VERSIONS)


def test_what_is_seen_again_is_not_written(tmp_path: Path) -> None:
    """So that the file may be one that this user can only read."""
    see, file = _policies(tmp_path), tmp_path / "seen.json"
    see(1, file)
    before = file.stat()
    see(1, file)
    assert file.stat() == before


def test_a_pipe_in_the_place_of_it_is_not_waited_for(tmp_path: Path) -> None:
    """Nor one in the place of the file beside it."""
    file, other = tmp_path / "seen.json", tmp_path / "other.json"
    os.mkfifo(file)
    os.mkfifo(tmp_path / ".other.json.lock")
    for path, reason in ((file, "bad_document"), (other, "unwritable_file")):
        with pytest.raises(ConfigurationError) as caught:
            _policies(tmp_path)(1, path)
        assert caught.value.reason == reason


def test_a_file_that_is_shared_with_another_user_goes_on(tmp_path: Path) -> None:
    """Who may only read the file beside it can lock it all the same."""
    see, file = _policies(tmp_path), tmp_path / "seen.json"
    see(1, file)
    lock = tmp_path / ".seen.json.lock"
    lock.chmod(0o444)
    see(2, file)
    assert read_document(file, "seen.v1", Seen, None, what="", begin="").version == 2
