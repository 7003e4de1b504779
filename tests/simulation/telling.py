"""Events in words, for a trace."""

from aigovtool.ledger.book import Charge, Draw, Event, Expire, ReportUsage, WriteOff


def told(event: Event) -> str:
    """Return an event in words."""
    match event:
        case Expire() | WriteOff():
            return f"lease {int(event.lease_id, 16)}"
        case ReportUsage():
            last = ", final" if event.final else ""
            return f"report {event.seq} on lease {int(event.lease_id, 16)}: {event.used} used{last}"
        case Draw():
            wish = f"at least {event.minimum}, better {event.target}"
            return f"lease {int(event.lease_id, 16)} for {event.consumer}: {wish}"
        case Charge():
            return f"{event.units} units on {event.key}"
