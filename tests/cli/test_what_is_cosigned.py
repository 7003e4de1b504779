"""Attack: whoever stands in for the custodian shows the second operator what makes another operator's order look well.

A thief of the custodian's TLS key can answer so; the order, once both have signed it, the first operator sends to the
true custodian. So what an order says is shown from its own bytes, and not as a difference to what the custodian shows.
"""

import asyncio
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import msgspec
import pytest
from click.testing import Result
from tests.cli.conftest import Place
from tests.cli.site import Site, make_site

from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.codec import decode, encode
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.service import views
from aigovtool.ids import Digest, MessageId, OperatorId
from aigovtool.ledger.checkpoint import parse_checkpoint
from aigovtool.ledger.entry import Command, Entry, Stopped, StopTarget
from aigovtool.protocol.views import GapView, LogFound, Stops
from aigovtool.transport.server import bind_loopback


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A custodian with two operators and one enclave."""
    with bind_loopback() as listener:
        made = make_site(tmp_path, listener, None)
        yield made
        made.bench.custodian.database.close()


def cosign(place: Place) -> Result:
    """Have bob look, and sign."""
    return place.run("cosign", place.file("order.json"), "--operator", place.file("bob.json"), "--yes")


def test_a_build_is_shown_also_where_the_custodian_says_that_it_is_accepted_already(site: Site) -> None:
    """What is in force is the custodian's word: a build that does not change by it was not shown, and signed."""
    with site.served() as place:
        policy = json.loads(place.run("appraisal", "show", "--json").stdout)
        builds = policy["accepted"][0]["reference_values"]
        builds.append({"label": "mine", "values": [{"name": builds[0]["values"][0]["name"], "digest": "ee" * 48}]})
        file = Path(place.file("policy.json"))
        file.write_text(json.dumps({**policy, "version": 2}), encoding="utf-8")
        assert place.run("appraisal", "set", str(file), "--save", place.file("order.json")).exit_code == 0
    ordered = decode(json.dumps({**policy, "version": 2}).encode(), AppraisalPolicy)
    (entry,) = ordered.accepted
    older = msgspec.structs.replace(entry, max_attestation_age_ms=entry.max_attestation_age_ms + 1)

    async def lie(_custodian: Custodian) -> AppraisalPolicy:
        return msgspec.structs.replace(ordered, version=1, accepted=(older,))

    with patch.object(views, "show_policy", lie), site.served() as place:
        done = cosign(place)
    assert done.exit_code == 0, done.output
    assert "ee" * 48 in done.stdout


def test_what_a_restored_ledger_lost_is_told_by_the_checkpoint_that_is_signed(site: Site) -> None:
    """A custodian that says that less is lost does not make the order one for less."""
    site.forget(5)
    with site.served() as place:
        gap = place.document("custodian", "gap")
        words = ("--charge-nothing", "--reason", "disk lost", "--save", place.file("order.json"))
        assert place.run("custodian", "settle", *words).exit_code == 0
    signed = parse_checkpoint(gap["checkpoint"])
    assert signed.size == gap["signed_size"]
    shown = views.show_gap

    async def lie(custodian: Custodian) -> GapView:
        return msgspec.structs.replace(await shown(custodian), lost_size=1, lost_generation=9)

    with patch.object(views, "show_gap", lie), site.served() as place:
        done = cosign(place)
    assert done.exit_code == 0, done.output
    assert f"{signed.size} entries, generation {signed.generation}" in done.stdout
    assert f"at least {signed.size - gap['size']} entries" in done.stdout


def test_the_stop_that_is_lifted_is_named_by_its_epoch(site: Site) -> None:
    """Of two stops of one model the order lifts one, and which is what both operators compare."""
    with site.served() as place:
        assert place.run("stop", "--all", "--wait", "0", "--reason", "drill").exit_code == 0
        assert place.run("resume", "--all", "--save", place.file("order.json")).exit_code == 0
        (stop,) = asyncio.run(views.show_stops(site.bench.custodian)).stops
        done = cosign(place)
    assert done.exit_code == 0, done.output
    assert f"the stop of everything of epoch {stop.epoch}:" in done.stdout


def test_a_log_that_does_not_end_holds_nobody(site: Site) -> None:
    """Who looks for the order of a stop looks through as many entries as the log's key has signed, not through more."""
    with site.served() as place:
        assert place.run("stop", "--all", "--wait", "0", "--reason", "drill").exit_code == 0
        assert place.run("resume", "--all", "--save", place.file("order.json")).exit_code == 0
    shown, pages = views.show_stops, itertools.count()
    mark = Command(operator=OperatorId("alice"), command_id=MessageId("0" * 32), digest=Digest("sha256:" + "0" * 64))

    async def later(custodian: Custodian) -> Stops:
        found = await shown(custodian)
        return msgspec.structs.replace(
            found, stops=[msgspec.structs.replace(one, epoch=one.epoch + 1) for one in found.stops]
        )

    async def endless(_custodian: Custodian, _kind: str, before: int, _limit: int) -> LogFound:
        assert next(pages) < 1_000, "they are still looking"
        other = Stopped(target=StopTarget.MODEL, value="other", epoch=1, command=mark)
        entry = Entry(index=before - 1, at_ms=1, generation=0, body=other)
        return LogFound(entries=[encode(entry)] if before else [])

    with patch.object(views, "show_stops", later), patch.object(views, "show_kind", endless), site.served() as place:
        refused = cosign(place)
    assert (refused.exit_code, "stop_changed" in refused.stderr) == (3, True), refused.output
