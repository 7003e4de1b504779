"""The audit log of a real deployment in which everything happened: exported, and then tampered with."""

import random
from collections import Counter

from aigovtool.codec import decode, encode
from aigovtool.crypto.sign import VerifyKey
from aigovtool.custodian.custodian import Custodian
from aigovtool.errors import AIGovToolError
from aigovtool.ledger.entry import Entry
from aigovtool.operator.audit_file import write_audit_file
from aigovtool.protocol.views import LogHead
from assurance.campaign import Campaign, Target, each_seed
from assurance.campaigns.tampering import KINDS, Genuine, do_everything, done, figure
from assurance.drills.deployment import COVERS, deployment
from assurance.drills.every_act import end, live
from assurance.figures import Figures, of_seed
from assurance.tampering import TAMPERINGS


class Exported(Genuine):
    """A log as `aigovtool audit export` writes it, and the keys of the custodian that kept it."""

    def __init__(self, custodian: Custodian, note: str, entries: list[bytes], root: VerifyKey) -> None:
        """Write the file beside the custodian's packages."""
        self.path = custodian.packages / "audit.jsonl"
        self.root_key, self.log_key = root, custodian.keys.log
        self.entries = [decode(data, Entry) for data in entries]
        self.leaves = [one.leaf() for one in self.entries]
        write_audit_file(self.path, LogHead(checkpoint=note, key_set=custodian.keys.key_set_envelope), entries)
        self.header, *self.lines = self.path.read_bytes().splitlines(keepends=True)
        if [encode(one) for one in self.entries] != entries or note != self.note(len(entries)):
            raise AssertionError("the export is not what the custodian signed")


def _exported(seed: int) -> tuple[Counter[str], list[str]]:
    with deployment(budget=30, ttl_ms=1_000) as world:
        second = live(world)
        custodian, note, entries = end(world, second)
        copy = Exported(custodian, note, entries, custodian.keys.root)
        copy.verify(copy.lines)
        counts, wrong = do_everything(copy, random.Random(seed))
        late = sum(b'"late":true' in data for data in entries)
        wrong += [] if late else ["no lease was closed late"]
        return counts, wrong


def _figures(seed: int) -> Figures:
    try:
        return done(seed, *_exported(seed))
    except (AssertionError, AIGovToolError) as broken:  # it did not do what it should, or its log does not verify
        return of_seed(seed, violation=str(broken))


CAMPAIGN = Campaign(
    name="real-log",
    claim="Whatever is changed in the exported audit log of a real deployment is detected, and named where it can be.",
    counts=f"tamperings as in `tampering`, in {len(TAMPERINGS)} ways with each entry and with each byte of the "
    "header, of "
    "the log of a deployment of real processes in which everything happens that a log can tell of, with all "
    f"{KINDS} kinds of entries: an enclave is killed and written off, one is frozen and closes late, a budget is "
    "used up "
    "and raised, everything is stopped, a ledger is restored and settled, an enclave forks, a model is withdrawn.",
    target=Target(20_000, "tamperings"),
    shows_not="that a copy is the newest (see `tampering`). The last part of the deployment's life, which needs a peer "
    "that lies, is played on its ledger by production code without sockets.",
    covers=(
        *COVERS,
        "tests/custodian/conftest.py",
        "tests/custodian/host_clock.py",
        "assurance/tampering.py",
        "assurance/campaigns/tampering.py",
        "assurance/campaigns/real_log.py",
    ),
    run=each_seed(_figures),
    replay=lambda seed: "\n".join(f"{part}" for part in _exported(seed)),
    figure=figure,
    quick=1,
    steady=False,
    alone=True,
)
