"""Attacks on evidence: old, borrowed, altered or of something else."""

from assurance.attacks.attack import Attack

ATTACKS: tuple[Attack, ...] = (
    Attack(
        1,
        name="Evidence is sent again",
        answer="A nonce of the custodian's is good once, for a minute, and is spent in the ledger before anything is "
        "verified; a consumer makes its own for each attestation.",
        tried="A captured boot is sent several times at once, again over its connection, over a new one, and to a "
        "custodian that was started again; a minute too late; a consumer is shown an enclave's answer to another "
        "nonce.",
        refusals=(
            "evidence_not_genuine: nonce_replayed",
            "evidence_not_genuine: nonce_expired",
            "evidence_not_genuine: binding_nonce",
        ),
        entries=("attestation_refused",),
    ),
    Attack(
        2,
        name="Genuine evidence is relayed from another channel",
        answer="The report data covers the TLS key, the key that model keys are wrapped to, identity, nonce, role and "
        "audience: evidence fits one conversation only, and nothing but the challenge is sent to anybody else.",
        tried="Somebody with the consumer's own credential ends TLS before a genuine enclave and passes its evidence "
        "on, as it is, with a key of his own in the claims, and with each claim changed in turn; the same at "
        "boot.",
        refusals=(
            "evidence_not_genuine: binding_tls_spki",
            "evidence_not_genuine: channel_binding",
            "evidence_not_genuine: binding_audience",
        ),
        entries=("attestation_refused",),
    ),
    Attack(
        3,
        name="Another genuine machine is offered",
        answer="A policy may list the chips that are accepted, and then every other one is refused, as is one that"
        " does not tell. Without a list any genuine machine of an accepted kind may be used: that is said where the "
        "policy is shown.",
        tried="Genuine evidence of each kind of TEE that names its chip, and a real report of AMD's, are judged by "
        "policies that list another chip.",
        refusals=("evidence_unacceptable: chip",),
    ),
    Attack(
        4,
        name="Evidence made in one role or for one audience is used in another",
        answer="Role and audience are in the report data: boot evidence is for one custodian, session evidence for one "
        "consumer.",
        tried="A host and a consumer have a genuine enclave answer the custodian's nonce, and send that as a boot in "
        "three ways; evidence for one consumer is shown to another.",
        refusals=("evidence_not_genuine: binding_role", "evidence_not_genuine: binding_audience"),
        entries=("attestation_refused",),
    ),
    Attack(
        5,
        name="A debug, migratable or otherwise weakened guest is offered",
        answer="Debug mode is refused whatever a policy says; every other bit is a fact that a policy must name to be "
        "accepted, and bits that are not known are refused.",
        tried="One vector for each bit of guests' policies, platforms, TDs, enclaves and TPM keys, signed by keys for "
        "tests, goes through the command line.",
        refusals=("evidence_unacceptable: debug", "evidence_unacceptable: facts"),
    ),
    Attack(
        6,
        name="An old TCB, old collateral, or a withheld revocation list is offered",
        answer="A policy has a least version of each component, names accepted advisories and statuses, and bounds the "
        "age of collateral; drafts demand a revocation list, and the custodian fetches it itself.",
        tried="Vectors with each status, advisory, old version, old list and revoked key go through the command line; a"
        " borrower brings an old list, and a vendor revokes who was admitted.",
        refusals=(
            "evidence_unacceptable: tcb",
            "evidence_unacceptable: facts",
            "evidence_unacceptable: advisories",
            "evidence_unacceptable: collateral_age",
            "evidence_not_genuine: tcb_revoked",
        ),
    ),
    Attack(
        7,
        name="Signatures and chains are bent: encodings, zeros, curves, certificates swapped, added or re-keyed",
        answer="Encodings are strict, chains are built from pinned roots alone, and every certificate has its one"
        " place; what is not exactly as the vendor makes it is refused by a named step.",
        tried="More than 150 vectors of bent signatures, keys, curves and chains go through the command line; each byte"
        " of genuine evidence is changed, in part, by tests, and in whole by a campaign.",
    ),
    Attack(
        8,
        name="The simulated TEE is passed off as acceptable",
        answer="The simulated TEE has no verifier where nobody opted in, and each side opts in for itself, in its own "
        "file and by its own option; no variable means anything.",
        tried="A simulated enclave boots at a custodian as `init` makes it, without a policy and with one that would "
        "accept it, and under each other label; a consumer without either opt-in is offered one, relabelled, and "
        "without a label.",
        refusals=("evidence_unacceptable: simulated", "evidence_not_genuine: tee_unknown"),
        entries=("attestation_refused",),
    ),
    Attack(
        9,
        name="Evidence is made to crash or to occupy whoever reads it",
        answer="Evidence is bounded in size and number of parts, read strictly and without recursion, and judged"
        " outside of the ledger's writer.",
        tried="Bundles of each kind of TEE, bent by the fuzzer, are sent to a running custodian by a "
        "borrower: typed refusals, the same process, and a genuine enclave boots afterwards. A campaign makes a "
        "million in one process.",
    ),
    Attack(
        10,
        name="URLs in evidence make a verifier ask other machines",
        answer="No URL in evidence is ever followed. Vendors are asked at addresses that are written in this program, "
        "over TLS that is verified, without redirects, and within bounds.",
        tried="Every certificate in evidence of five kinds of TEE names a listener, the clouds' metadata service, a "
        "file and a directory server; all that the command line and a running custodian connect to or open is "
        "watched.",
    ),
    Attack(
        11,
        name="An older or foreign appraisal policy is put in place",
        answer="A policy is an order with an operator's signature and a version that only rises; whoever appraises "
        "elsewhere checks the signer and remembers the newest version.",
        tried="At a running custodian: an older policy, another of the same version, one signed by the borrower, "
        "changed bytes, and a recorded order; on the command line: an older signed file, another signer, a "
        "changed byte.",
        refusals=(
            "evidence_unacceptable: policy_rollback",
            "evidence_unacceptable: policy_fork",
            "bad_signature: wrong_key",
            "bad_signature",
        ),
        entries=("command_refused",),
    ),
)
