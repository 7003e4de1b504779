"""Faults of the predecessor in confidentiality, robustness, build and process."""

from assurance.attacks.attack import Fault

FAULTS: tuple[Fault, ...] = (
    Fault(
        30,
        name="Telemetry was on and could not be turned off",
        answer="There is no telemetry: processes talk to their configured peers and to nobody else.",
        tried=(
            "connect() and datagrams of all processes of a deployment are traced from init to a wipe; and all of "
            "it is done once more where there is a loopback interface and nothing else."
        ),
    ),
    Fault(
        31,
        name="A queue without a bound",
        answer=(
            "Each queue has a bound in number and bytes, and what does not fit is refused at once; log lines "
            "about others are counted, not queued."
        ),
        tried=(
            "The queues of the ledger, of the engine and of notices are filled in memory beyond their bounds; a "
            "deployment is used in turns while memory, descriptors, threads and files of each process are watched. "
            "The campaign soak does it for a million requests."
        ),
    ),
    Fault(
        32,
        name="Logs told names, replies and traces",
        answer="Log lines have events, identifiers and reasons of ours; errors are opaque; there are no core files.",
        tried=(
            "Seven secrets are looked for in all logs and files of a deployment, and custodian and enclave are "
            "made to crash."
        ),
    ),
    Fault(
        33,
        name="Captured traffic and passwords were in the repository",
        answer="Neither captured traffic nor a password is in the repository, its history or what is published.",
        tried=(
            "Every content that a file ever had, and all files of wheel and source archive, are looked at for "
            "keys, passwords, tokens and captured traffic; planted ones are found."
        ),
    ),
    Fault(
        34,
        name="A model was a list of numbers, decrypted at the custodian",
        answer="A package is ciphertext that streams to disk and from it: the custodian's memory has no piece of a"
        " model, and little of anything.",
        tried="256 MiB up and down through a running custodian whose memory is measured; a search for pieces of "
        "the model in the custodian's files and memory, and in the engine's, where it finds them.",
    ),
    Fault(
        35,
        name="A demonstration fetched from the network and ran shell commands",
        answer="No verb fetches anything or runs a shell: a connection is to the peer that was named.",
        tried="connect() and datagrams of all verbs and servers are traced from init to a wipe.",
    ),
    Fault(
        36,
        name="An upload was measured by what it said of itself",
        answer="What comes is measured: the answer is there after the first bytes too many, and what is sent all "
        "the same is thrown away.",
        tried="Ten GiB that are announced as 100 bytes, as nothing, or in chunks, at three doors, until the "
        "answer comes, and by a sender that does not listen; memory is measured.",
        refusals=("too_large: body_too_large",),
    ),
    Fault(
        37,
        name="Inputs were limited in number and not in size",
        answer="Bodies, axes, elements, and what a run may allocate are bounded, and refused before memory is taken.",
        tried="Shapes and announced bodies that would take up to exabytes, at a running enclave whose memory and "
        "that of its engine is measured.",
        refusals=(
            "too_large: too_many_elements",
            "too_large: body_too_large",
            "engine_failed: out_of_memory",
            "invalid_value: model_refused_input",
        ),
    ),
    Fault(
        38,
        name="A model that crashed the parser ended the service for good",
        answer="The enclave outlives its engine: what runs is told, no unit is lost, and it attests anew and "
        "serves again.",
        tried="Engines that end by SIGSEGV and SIGKILL in the middle of runs; a hostile custodian's model; "
        "malformed models at the real engine.",
        refusals=("model_refused: engine_refused",),
    ),
    Fault(
        39,
        name="An upload kept all others waiting",
        answer="Others are answered while a package comes in.",
        tried="Inferences at the enclave and questions to the custodian, before and during an upload of 256 MiB "
        "on the same two cores.",
    ),
    Fault(
        40,
        name="Refused requests slept in the server's few threads",
        answer="Who has nothing left is told at once; who has paid is answered as before.",
        tried="A hundred connections of a consumer without units that ask without pause, beside one that pays.",
        refusals=("budget_exhausted",),
    ),
    Fault(
        41,
        name="Malformed requests crashed it",
        answer="They are refused with 4xx, each typed.",
        tried="2,000 bodies of inferences that are changed from good ones, in JSON and in the binary form, on "
        "four connections at once.",
    ),
    Fault(
        42,
        name="A development server, and libraries that nobody maintains",
        answer=(
            "A production server behind a strict reader of our own, and few parsers, each named with what it "
            "reads; versions and hashes are locked."
        ),
        tried=(
            "The list of parts is compared with a list of those that may be there. Advisories need a network: "
            "they are a step of a release (docs/release.md)."
        ),
    ),
    Fault(
        43,
        name="A pinned certificate went through a temporary file",
        answer="Certificates are pinned and keys loaded in memory.",
        tried=(
            "All files that the processes of a deployment open for writing, from init to a wipe, are compared "
            "with those that they are for."
        ),
    ),
    Fault(
        44,
        name="Its guide removed newer kernels",
        answer="Supported kernels as they come; nothing is removed, made older or switched off.",
        tried="All guides, scripts and the Makefile are searched for what makes a machine older or weaker.",
    ),
    Fault(
        45,
        name="It could not be built from its repository",
        answer="A clone is built without a network, and the same commit gives the same bytes.",
        tried=(
            "Wheel and source archive are built from two clones in different places, under different umasks, and "
            "their digests compared."
        ),
    ),
    Fault(
        46,
        name="Its build ran whatever it downloaded",
        answer="What is installed is named by its hash; nothing that was downloaded is run otherwise.",
        tried=(
            "Scripts, Makefile and CI are searched for pipes into shells, installations without hashes, keys of "
            "repositories, privileges and actions without a digest."
        ),
    ),
    Fault(
        47,
        name="Old dependencies with known faults",
        answer="Versions are locked and current; below known bad ones nothing is installed.",
        tried=(
            "The list of parts is compared with least versions. Advisories need a network: they are a step of a "
            "release (docs/release.md)."
        ),
    ),
    Fault(
        48,
        name="No security policy, no list of parts, no signed release, no test that anything is refused",
        answer=(
            "A security policy, a list of parts (`make sbom`), and tests of refusals by the hundred. There was no "
            "release yet: its check-list has signatures."
        ),
        tried=(
            "The list of parts is compared with the lock and what is installed; policy and check-list with what "
            "they must say; tests that demand a refusal are counted."
        ),
    ),
)
