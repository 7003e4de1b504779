"""All campaigns, in the order in which they are run and published."""

from assurance.campaign import Campaign
from assurance.campaigns import (
    any_order,
    at_once,
    attacks,
    before,
    concurrency,
    crash_points,
    disk_errors,
    evidence_fuzz,
    evidence_mutations,
    kills,
    model_machine,
    models,
    mutants,
    nodes,
    overspend,
    parsers,
    power_fail,
    real_log,
    run_bodies,
    server_kills,
    soak,
    stops,
    tampering,
)

CAMPAIGNS: tuple[Campaign, ...] = (
    attacks.ATTACKS,
    attacks.FAULTS,
    overspend.CAMPAIGN,
    mutants.SAFETY,
    mutants.WASTE,
    tampering.CAMPAIGN,
    real_log.CAMPAIGN,
    evidence_mutations.CAMPAIGN,
    evidence_fuzz.CAMPAIGN,
    *parsers.CAMPAIGNS,
    models.CAMPAIGN,
    model_machine.CAMPAIGN,
    any_order.CAMPAIGN,
    at_once.CAMPAIGN,
    crash_points.CAMPAIGN,
    disk_errors.CAMPAIGN,
    power_fail.CAMPAIGN,
    concurrency.BUDGET,
    concurrency.REPLICAS,
    concurrency.ONE_UNIT,
    kills.CAMPAIGN,
    server_kills.CAMPAIGN,
    stops.ONLINE,
    stops.OFFLINE,
    run_bodies.CAMPAIGN,
    nodes.CAMPAIGN,
    soak.CAMPAIGN,
    before.CAMPAIGN,
)


def campaign_named(name: str) -> Campaign:
    """Return a campaign.

    Raises:
        SystemExit: there is none of this name.
    """
    for campaign in CAMPAIGNS:
        if campaign.name == name:
            return campaign
    raise SystemExit(f"no campaign {name!r}; there are: {', '.join(one.name for one in CAMPAIGNS)}")
