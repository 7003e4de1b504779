import pytest
from assurance.campaign import Campaign
from assurance.catalogue import CAMPAIGNS
from assurance.runner import replay_failed


@pytest.mark.timeout(600)  # each seed that is kept adds to it, and a slow machine takes minutes for those of tampering
@pytest.mark.parametrize("campaign", [one for one in CAMPAIGNS if one.steady], ids=lambda one: one.name)
def test_a_seed_that_once_failed_passes(campaign: Campaign) -> None:
    """What was found once is looked at for ever."""
    assert replay_failed(campaign).violations == []
