"""Who gets the places of a server, and who gives one up: the rules by themselves, without connections."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.transport.connection import Tally, Verdict, Worth


class Visitor:
    """A connection that is only counted."""

    def __init__(self, worth: Worth = Worth.SILENT) -> None:
        self.worth = worth
        self.ended = 0

    def end(self) -> None:
        """Remember it."""
        self.ended += 1


def entered(tally: Tally, count: int, client: str | None, network: str = "here", **kind: Worth) -> list[Visitor]:
    """Return so many visitors who have come in."""
    visitors = [Visitor(**kind) for _ in range(count)]
    assert all(tally.enter(one, client, network) is Verdict.WELCOME for one in visitors)
    return visitors


def test_an_eighth_of_all_places_is_for_those_with_a_certificate() -> None:
    """However many enclaves there are, and whatever strangers do, an operator gets in."""
    tally = Tally(100, in_all=16, strangers=16, strangers_of_address=16)
    for number, visitor in enumerate(entered(tally, 14, None)):
        assert tally.prove(visitor, f"key-{number}")
    assert tally.enter(Visitor(), None, "there") is Verdict.FULL
    entered(tally, 2, "operator:ann")
    assert tally.enter(Visitor(), "operator:ann", "here") is Verdict.FULL


def test_an_eighth_of_all_places_is_for_those_without_a_certificate() -> None:
    """Consumers who hold all that they may do not keep an enclave from its custodian."""
    tally = Tally(8, in_all=16, strangers=16, strangers_of_address=16)
    entered(tally, 7, "consumer:ann")
    entered(tally, 7, "consumer:ben")
    assert tally.enter(Visitor(), "consumer:ben", "here") is Verdict.FULL
    for visitor in entered(tally, 2, None):
        assert tally.prove(visitor, "key-1")


def test_those_who_hold_credentials_shut_no_operator_out() -> None:
    """Each has all that it may have, and nothing to do: who has fewest gets the places of who has most."""
    tally = Tally(4, in_all=16, strangers=16, strangers_of_address=16)
    idle = {name: entered(tally, count, name) for name, count in (("consumer:ann", 4), ("consumer:ben", 4))}
    busy = entered(tally, 4, "consumer:cleo", worth=Worth.WORKED_ON)
    entered(tally, 2, "consumer:dora")
    entered(tally, 2, "operator:eve")
    assert tally.enter(Visitor(), "operator:eve", "here") is Verdict.FULL  # who has more has one more, or work
    assert [sum(one.ended for one in visitors) for visitors in idle.values()] == [1, 1]
    assert not any(one.ended for one in busy)
    assert len(tally._certified) == 14


def test_those_who_have_signed_shut_out_nobody_who_is_to_sign() -> None:
    """Consumers of sealed requests, or whoever passes those on, hold all that they may; the next one comes unproven."""
    tally = Tally(5, in_all=16, strangers=16, strangers_of_address=16)
    held = {key: entered(tally, count, None, key) for key, count in (("ann", 5), ("ben", 4), ("cleo", 1))}
    busy = entered(tally, 4, None, "dora", worth=Worth.WORKED_ON)
    for key, visitors in (*held.items(), ("dora", busy)):
        assert all(tally.prove(one, key) for one in visitors)
    (newcomer,) = entered(tally, 1, None, "there")
    assert [sum(one.ended for one in visitors) for visitors in held.values()] == [1, 0, 0]
    assert tally.prove(newcomer, "eve")
    crowd = entered(tally, 3, None, "there")
    assert [one.ended for one in crowd] == [1, 0, 0], "who has almost as many gets a place of its own address's"
    assert [sum(one.ended for one in visitors) for visitors in held.values()] == [2, 1, 0]
    assert not any(one.ended for one in busy)


def test_a_client_that_is_refused_ends_nobody() -> None:
    """Its own share is looked at first."""
    tally = Tally(1, in_all=2)
    (stranger,) = entered(tally, 1, None)
    entered(tally, 1, "consumer:ann")
    assert tally.enter(Visitor(), "consumer:ann", "here") is Verdict.GREEDY
    assert not stranger.ended


def test_an_address_with_as_many_as_the_others_gets_no_place_of_theirs() -> None:
    """Only one with fewer does: two that take turns would end each other's connections for ever."""
    tally = Tally(1, strangers=4, strangers_of_address=4)
    theirs = entered(tally, 2, None, "there")
    busy = entered(tally, 2, None, "here", worth=Worth.WORKED_ON)
    assert tally.enter(Visitor(), None, "here") is Verdict.FULL
    assert tally.enter(Visitor(), None, "elsewhere") is Verdict.WELCOME
    assert [one.ended for one in (*theirs, *busy)] == [1, 0, 0, 0]


def test_the_latest_signer_counts() -> None:
    """A connection that enclaves share is one of the latest; a signer that has its share gets no more."""
    tally = Tally(1, strangers=2)
    first, second = entered(tally, 2, None)
    assert tally.prove(first, "key-1")
    assert not tally.prove(second, "key-1")
    assert tally.prove(first, "key-2")
    assert tally.prove(second, "key-1")
    assert tally._counts == {"key-1": 1, "key-2": 1}
    entered(tally, 2, None)


def test_a_proof_that_comes_too_late_takes_no_place() -> None:
    """Whoever has lost its place, or never had one, is not counted; a certificate says more than a signature."""
    tally = Tally(5, strangers=1)
    (lost,) = entered(tally, 1, None)
    entered(tally, 1, None)
    (client,) = entered(tally, 1, "consumer:ann")
    assert lost.ended
    assert not tally.prove(lost, "key-1")
    assert not tally.prove(Visitor(), "key-1")
    assert tally.prove(client, "key-1")
    assert tally._counts == {"consumer:ann": 1}


def gives_way(inside: dict[Visitor, str | None], whose: str | None, client: str | None) -> bool:
    """Return whether a connection may be ended for a newcomer: a stranger's, or that of a client with far more."""
    held = Counter(inside.values())
    return whose is None or (client is not None and whose != "key" and held[whose] > held[client])


COMINGS = st.tuples(
    st.just("come"), st.sampled_from([None, None, None, "ann", "ben"]), st.integers(0, 4), st.sampled_from(Worth)
)
OTHERS = st.tuples(st.sampled_from(["leave", "prove"]), st.none(), st.integers(0, 30), st.sampled_from(Worth))


@pytest.mark.parametrize("in_all", [6, 12, 100])
@given(steps=st.lists(COMINGS | OTHERS, max_size=60))
def test_whatever_happens_the_places_are_bounded_and_work_is_safe(
    in_all: int, steps: list[tuple[str, str | None, int, Worth]]
) -> None:
    """Nobody is counted twice or left behind; who is worked on or proven is never ended; the shares hold."""
    tally = Tally(3, in_all=in_all, strangers=5, strangers_of_address=3)
    inside: dict[Visitor, str | None] = {}
    networks: dict[Visitor, str] = {}
    for what, client, number, worth in steps:
        if what == "come":
            visitor = Visitor(worth)
            before = Counter(networks[one] for one, whose in inside.items() if whose is None)
            silent = any(one.worth is Worth.SILENT for one, whose in inside.items() if whose is None)
            verdict = tally.enter(visitor, client, f"net-{number}")
            if verdict is Verdict.WELCOME:
                inside[visitor], networks[visitor] = client, f"net-{number}"
            elif client is None and not before[f"net-{number}"]:
                assert not silent  # a newcomer from elsewhere gets in as long as anybody is silent
            assert all(one.worth is not Worth.WORKED_ON for one in inside if one.ended)
            assert all(gives_way(inside, whose, client) for one, whose in inside.items() if one.ended)
            for one in [one for one in inside if one.ended]:
                del inside[one]
        elif inside:
            visitor = list(inside)[number % len(inside)]
            if what == "leave":
                tally.leave(visitor)
                del inside[visitor]
            elif tally.prove(visitor, "key") and inside[visitor] is None:
                inside[visitor] = "key"
        strangers = Counter(networks[one] for one, whose in inside.items() if whose is None)
        assert len(inside) <= in_all
        assert strangers.total() <= 5
        assert all(count <= 3 for count in strangers.values())
        assert {network: len(guests) for network, guests in tally._strangers.items()} == strangers
        assert tally._counts == Counter(whose for whose in inside.values() if whose is not None)
    for visitor in list(inside):
        tally.leave(visitor)
    assert (tally._strangers, tally._network, tally._proven, tally._certified) == ({}, {}, {}, {})
