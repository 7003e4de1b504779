"""Waits for an enclave to have heard from its custodian, however busy the machine is."""

from tests.e2e.world import World, wait_for


def wait_for_heartbeat(world: World) -> None:
    """Wait until the newest enclave holds the custodian's signed word of what the log says by now.

    It sends its next heartbeat when it has the answer to the last one. So two that began from now on are waited for.
    """
    seen = {last_contact_ms(world)}

    def two_more() -> bool:
        seen.add(last_contact_ms(world))
        return len(seen) > 2

    wait_for(two_more, "the enclave has had a heartbeat answered")


def last_contact_ms(world: World) -> int:
    """Return when the newest enclave was last heard of, by the custodian's clock."""
    return int(world.view("/v1/enclaves")["enclaves"][0]["last_contact_ms"])
