"""Faults of the predecessor in attestation and channel."""

from assurance.attacks.attack import Fault

FAULTS: tuple[Fault, ...] = (
    Fault(
        17,
        name="Evidence was made once and served for ever",
        answer="Evidence is made for one nonce, which is good once and for a minute.",
        tried="As atk-01: captured boots are sent again in every way, and evidence for another nonce is shown to a "
        "consumer.",
        refusals=(
            "evidence_not_genuine: nonce_replayed",
            "evidence_not_genuine: nonce_expired",
            "evidence_not_genuine: binding_nonce",
        ),
        entries=("attestation_refused",),
    ),
    Fault(
        18,
        name="Evidence went over plain HTTP",
        answer="There is TLS 1.3 and nothing else between all parties; evidence travels over the connection that it "
        "binds.",
        tried="All bytes of a boot, key release, leases, orders and an inference are recorded: after the first hello "
        "they are encrypted records and nothing else; keys, prompt and names are not in them.",
    ),
    Fault(
        19,
        name="The enclave did not know its custodian",
        answer="An enclave obeys what the pinned root of its custodian signed; the file that pins it is in its"
        " evidence, so that consumers refuse an enclave that obeys another.",
        tried="The borrower answers at the custodian's address with a custodian of its own, then with the custodian's "
        "stolen TLS key; a consumer is offered an enclave of that custodian.",
        refusals=("bad_signature: wrong_key",),
    ),
    Fault(
        20,
        name="The model was bound to nothing but its name",
        answer="A package is known by the digest of its signed manifest, which is in the admission, in the context of "
        "its key, in the evidence for consumers, and in each receipt.",
        tried="The borrower lends a model of its own under the same name; another package, and one with a flipped bit, "
        "are put into the enclave's cache: refused, and fetched anew.",
        refusals=("bad_signature: wrong_key", "package_invalid: segment"),
    ),
    Fault(
        21,
        name="Debug enclaves were accepted",
        answer="Debug is refused by every policy; there is no way to write one that allows it.",
        tried="As atk-05: vectors of each TEE that has a debug mode, judged by policies that accept everything else.",
        refusals=("evidence_unacceptable: debug",),
    ),
    Fault(
        22,
        name="A client's flag and a server's header chose simulation",
        answer="The kind of TEE is part of evidence, selects a verifier, and is confirmed by it; the simulated one"
        " needs an opt-in on each side.",
        tried="As atk-08.",
        refusals=("evidence_unacceptable: simulated", "evidence_not_genuine: tee_unknown"),
        entries=("attestation_refused",),
    ),
    Fault(
        23,
        name="Every advisory was accepted, and any TCB",
        answer="Statuses and advisories are accepted by name, versions by component, collateral by age.",
        tried="As atk-06: vectors with each status and advisory, and old versions, are judged by policies that do not "
        "name them.",
        refusals=(
            "evidence_unacceptable: tcb",
            "evidence_unacceptable: advisories",
            "evidence_unacceptable: collateral_age",
        ),
    ),
    Fault(
        24,
        name="The policy was a file without a signature",
        answer="A policy is signed, has a version that only rises, and its digest is shown wherever it decides.",
        tried="As atk-11.",
        refusals=("evidence_unacceptable: policy_rollback", "bad_signature: wrong_key", "bad_signature"),
        entries=("command_refused",),
    ),
    Fault(
        25,
        name="Half of the report data was not compared",
        answer="All 64 bytes of report data are compared.",
        tried="Report data that differs in any field, is longer, shorter, or has another end is given to the "
        "comparison, and to the command line.",
        refusals=("evidence_not_genuine: report_data",),
    ),
    Fault(
        26,
        name="Checks were assertions, which optimised Python leaves out",
        answer="No check of the product is an assertion; a rule of the house refuses them.",
        tried="The product's source has none; the verdicts of all vectors and hundreds of mutations are the same under "
        "`-O`; and in every second round of this campaign all processes of the product run under `-OO`.",
    ),
    Fault(
        27,
        name="No time limits, and a certificate for two thousand years",
        answer="Everything that waits for a peer has a bound; certificates of custodians and parties end. An enclave's "
        "own certificate does not end by itself: it is pinned with the evidence and dies with the boot.",
        tried="Consumers and an operator meet a host that takes connections and never says a word.",
        refusals=("unreachable: no_answer",),
    ),
    Fault(
        28,
        name="Keys could not be rotated, and the host's clock decided",
        answer="Keys are announced, used and revoked while all goes on; who has seen the new set believes no thief. An "
        "enclave's host decides nothing by its clock.",
        tried="Five keys rotated under traffic, two custodians on one ledger, a thief with all old keys in their "
        "place; an enclave is booted and used with its host's clock ten years back and ahead.",
        refusals=("bad_signature: wrong_key", "bad_signature: key_set_rollback", "configuration: key_set_rollback"),
        entries=("key_set_published",),
    ),
    Fault(
        29,
        name="Collateral was fetched once, by somebody else, and never again",
        answer="The custodian fetches collateral itself, daily, from the vendor's fixed addresses, and a policy bounds "
        "its age.",
        tried="31 days by the custodian's clock under a policy that takes 30: with a vendor that answers an enclave "
        "boots, with a silent one it is refused.",
        refusals=("evidence_unacceptable: collateral_age",),
        entries=("attestation_refused",),
    ),
)
