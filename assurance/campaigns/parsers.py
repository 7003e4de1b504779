"""Parsers: none accepts a malformed input, fails on one, or takes a second or much memory for it."""

from assurance.campaign import Campaign
from assurance.parsers import (
    audit_exports,
    credentials,
    engine_frames,
    evidence_files,
    http_bodies,
    http_heads,
    local_files,
    messages,
    packages,
    receipts,
    sealed_requests,
)
from assurance.parsers.campaign import campaign_of
from assurance.parsers.parser import Parser

#: All of them, in the order of the page.
PARSERS: tuple[Parser, ...] = (
    http_heads.PARSER,
    http_bodies.PARSER,
    packages.PARSER,
    messages.PARSER,
    credentials.PARSER,
    receipts.PARSER,
    audit_exports.PARSER,
    engine_frames.PARSER,
    evidence_files.PARSER,
    local_files.PARSER,
    sealed_requests.PARSER,
)

CAMPAIGNS: tuple[Campaign, ...] = tuple(map(campaign_of, PARSERS))
