"""The agenda: a path is looked at when something happened to it, and when its time has come, and not for ever."""

from aigovtool.ids import ConsumerId, ModelId
from aigovtool.protocol.agenda import Agenda
from aigovtool.protocol.holding import PathKey


def path(name: str) -> PathKey:
    return ModelId("digits"), ConsumerId(name)


def test_a_path_is_due_until_it_was_looked_at() -> None:
    """Asking which one is next does not take it off."""
    agenda = Agenda()
    assert agenda.next(0) is None
    agenda.look(path("anna"))
    agenda.look(path("bert"))
    agenda.look(path("anna"))
    assert [agenda.next(0), agenda.next(0)] == [path("anna"), path("anna")]
    agenda.done(path("anna"), None)
    assert agenda.next(0) == path("bert")
    agenda.done(path("bert"), None)
    assert agenda.next(10**9) is None


def test_a_path_comes_back_at_the_earliest_of_its_times() -> None:
    """A later appointment does not postpone an earlier one, and each is kept once."""
    agenda = Agenda()
    agenda.done(path("anna"), 50)
    agenda.done(path("anna"), 90)
    agenda.done(path("anna"), 20)
    assert agenda.next(19) is None
    assert agenda.next(20) == path("anna")
    agenda.done(path("anna"), None)
    assert agenda.next(1_000) is None


def test_a_forgotten_path_does_not_come_back() -> None:
    """Neither from what is due nor at its time."""
    agenda = Agenda()
    agenda.look(path("anna"))
    agenda.done(path("bert"), 50)
    agenda.forget(path("anna"))
    agenda.forget(path("bert"))
    assert agenda.next(1_000) is None


def test_moved_appointments_take_no_memory() -> None:
    """A path whose time is moved forward again and again leaves little behind."""
    agenda = Agenda()
    for at_ms in range(100_000, 0, -1):
        agenda.done(path("anna"), at_ms)
    assert len(agenda._heap) < 2_000
    assert agenda.next(1) == path("anna")
