"""All campaigns, in the order in which they are run and published."""

from assurance.campaign import Campaign
from assurance.campaigns import before, concurrency, kills, mutants, overspend, stops, tampering

CAMPAIGNS: tuple[Campaign, ...] = (
    overspend.CAMPAIGN,
    mutants.SAFETY,
    mutants.WASTE,
    tampering.CAMPAIGN,
    concurrency.BUDGET,
    concurrency.ONE_UNIT,
    kills.CAMPAIGN,
    stops.ONLINE,
    stops.OFFLINE,
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
