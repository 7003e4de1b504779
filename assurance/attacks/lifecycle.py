"""Attacks on budget, time and life: restarted, copied, delayed, frozen, cut off, rolled back."""

from assurance.attacks.attack import Attack

ATTACKS: tuple[Attack, ...] = (
    Attack(
        12,
        name="An enclave is restarted to forget what it used",
        answer="Nothing that an enclave used is kept by it, so nothing is forgotten: what it holds was debited "
        "before, stays charged when it is killed, and the next one has to ask.",
        tried="The enclave is killed five times in the middle of a lease and started by the same command, and "
        "enclave, engine and custodian eight times at random; the campaign kills does it for hours.",
        entries=("lease_expired",),
    ),
    Attack(
        13,
        name="State that an enclave wrote is rolled back",
        answer="An enclave keeps no state: what it writes is the ciphertext of its models, which it may download "
        "again.",
        tried="strace looks at every file that both of its processes open for writing, from the start over "
        "inferences, a stop and the wipe to the end.",
    ),
    Attack(
        14,
        name="An enclave is copied to spend twice",
        answer="An enclave that is started again from the same files is another instance with keys of its own: "
        "it has to attest, and each of its leases is debited like any other.",
        tried="Four enclaves from the same image and configuration serve one consumer at once. (Copies of a "
        "running enclave's memory are what the fork rules, bound mode and the simulation are about: "
        "docs/spec/leases.md, 4 and 2.)",
    ),
    Attack(
        15,
        name="Messages are sent again, late, or in another order",
        answer="A renewal is carried out once: its copies get the same answer or none. An answer counts for the "
        "request under way only, and from when that was first sent. An older stop state lifts no stop, "
        "and a copy of a request for the stream of stops cuts none.",
        tried="A proxy with the custodian's TLS key, as no host has, sends each renewal four times, all old ones again "
        "in reverse order, old answers and old stop states in place of new ones, and holds each answer back for 0.8 "
        "ttl, which is 24 s where a ttl is 30 s.",
        refusals=("conflict: request_superseded", "conflict: listen_superseded"),
    ),
    Attack(
        16,
        name="Clocks are slowed, frozen, or stepped",
        answer="Units need no clock: a budget is exact whatever clocks show. Elapsed time that runs backwards "
        "ends an instance. A custodian whose clock leaps ahead grants nothing by it and ends nothing, until it is "
        "right or a person confirms it; one that is put back is not waited for. A stop is carried out whatever a "
        "custodian's clock shows. Where a host slows the clock of a TEE that has none of its own, a withheld stop "
        "is late by as much, and bounded by the units that were leased.",
        tried="A library under the running processes lets an enclave's time stand still, pass at a tenth, and "
        "leap a year back and ten ahead, and a custodian's leap ten years back, an hour and ten years "
        "ahead; a custodian is started with a clock ten years ahead, and told that it is right; both, or an engine "
        "alone, run in time namespaces, years ahead by each clock apart.",
        refusals=("bad_signature: stale_command", "clock_leapt", "unauthenticated: credential_expired"),
        entries=("command_refused",),
    ),
    Attack(
        17,
        name="An enclave is suspended across the end of its lease",
        answer="Authority counts from when the answered request was first sent, by clocks that go on in a "
        "suspended machine: after it, nothing is released.",
        tried="The enclave is frozen for two ttl while the custodian is away, goes on, and is asked at once.",
        refusals=("lease_expired",),
    ),
    Attack(
        18,
        name="A host cuts off the custodian, or lets through all but a stop",
        answer="Silence ends the service: the last answer leaves within one ttl of the last word of the custodian.",
        tried="A frozen custodian, a cut cable, a host that passes on all that the enclave says and nothing that it "
        "should hear, a stop least of all; and a custodian in another network, all packets to, from or between which "
        "are lost while an operator there stops all.",
        refusals=("lease_expired",),
    ),
    Attack(
        19,
        name="A host drops reports of use and nothing else",
        answer="Units are debited at the custodian before they are lent and in the enclave before they are used: "
        "without reports the answers are at most the units that were leased, and all of those are "
        "charged.",
        tried="A proxy that ends TLS lets everything pass but renewals and reports, while a consumer asks until "
        "it is refused.",
        refusals=("lease_expired",),
        entries=("lease_expired",),
    ),
    Attack(
        20,
        name="Leases are taken and dropped in a loop",
        answer="What one instance and one borrower can hold is a share of each limit, also after it has expired and is "
        "charged, and how often a borrower may ask for a challenge is bounded: a loop burns the borrower's own share, "
        "and fills no log.",
        tried="Five kills in the middle of a lease, with what is held after each; 340 requests for a challenge by a "
        "borrower that never boots; and a borrower whose instances take all that they are given and are not heard of "
        "again, 1,000 times, beside another borrower whose consumer is answered all the while.",
        refusals=("overloaded: nonces", "overloaded: boots"),
        entries=("lease_expired",),
    ),
    Attack(
        21,
        name="The custodian's ledger is restored from an old copy",
        answer="Whoever remembers more than the ledger ends all grants, until two operators settle what is lost. "
        "A start alone cannot know. If they charge all that remains, no stranger ends them again.",
        tried="The ledger's files are put back to a copy while units are spent, with an enclave that was "
        "admitted before the copy and with one that it never knew. A stranger shows checkpoints that it held back.",
        refusals=("ledger_rollback",),
        entries=("gap_found", "restored", "charged"),
    ),
    Attack(
        22,
        name="Two custodians serve one ledger",
        answer="The second does not start: the ledger is locked.",
        tried="A second custodian is started on the files of one that serves, and on a copy of its directory in which "
        "the ledger is the same file by another name.",
        refusals=("configuration: database_locked",),
    ),
    Attack(
        23,
        name="The disk is full or fails",
        answer="Nothing is answered that is not durable, and after a failed write or sync the process grants "
        "nothing more. A package that cannot be read is that model's failure, and the others are served.",
        tried="strace answers the first write and the first sync of a serving custodian with EIO and with "
        "ENOSPC; the campaigns disk-errors, crash-points and power-fail do it at every call. The disks of a running "
        "custodian, and of an enclave's cache, are filled up; each read of one package fails with EIO.",
        refusals=("storage_failed: package_unreadable",),
    ),
)
