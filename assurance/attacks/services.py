"""Attacks on the servers, on their logs, and by their operators."""

from assurance.attacks.attack import Attack

ATTACKS: tuple[Attack, ...] = (
    Attack(
        34,
        name="Slow and idle connections by the thousand",
        answer=(
            "Who proves nothing has few places and short deadlines, and loses them to newcomers; others are "
            "served within twice the usual time (p99), and 5 ms on an open connection or 25 ms on a new one."
        ),
        tried=(
            "2,000 connections to a custodian, and as many to an enclave, that send or read byte by byte or "
            "nothing at all, while others ask, by open and by new connections, by turns this server and one without "
            "slow connections, and an operator stops a consumer; consumers that announce all the bodies for which "
            "an enclave has room; and one that asks for large answers and reads none."
        ),
        refusals=("overloaded: answers_not_taken",),
    ),
    Attack(
        35,
        name="Two readers of one request see two requests",
        answer="What could be read in two ways is refused, once, and the connection ends.",
        tried=(
            "98 requests to the processes of a custodian and an enclave, each followed by one that would be "
            "answered; and in memory, cut at every byte."
        ),
        refusals=(
            "malformed: ambiguous_length",
            "malformed: duplicate_header",
            "malformed: bad_transfer_encoding",
            "malformed: bare_lf",
            "malformed: bad_chunk",
        ),
    ),
    Attack(
        36,
        name="Lines are forged in logs",
        answer=(
            "A log has lines of JSON, escaped and bounded, with events, addresses and reasons of ours; refusals "
            "are counted in at most a line a minute for each address."
        ),
        tried=(
            "Line breaks, terminal commands, C1 and bidirectional controls, NUL and a megabyte in paths, headers, "
            "methods, names, reasons and bodies, to a custodian and an enclave that then end: every line is read."
        ),
    ),
    Attack(
        37,
        name="A name carries a script into a page",
        answer="There is no page: the product serves JSON only, and says so (nosniff).",
        tried="",
        later="the dashboard",
    ),
    Attack(
        38,
        name="A page of somebody else acts in an operator's name",
        answer=(
            "There is no session in a browser: operators are known by a client certificate and by their signature "
            "under each command."
        ),
        tried="",
        later="the dashboard",
    ),
    Attack(
        39,
        name="A session is stolen or guessed",
        answer="There is no password, cookie or session: who asks proves a key in each handshake.",
        tried="",
        later="the dashboard",
    ),
    Attack(
        40,
        name="A role reaches what belongs to another role or another party",
        answer=(
            "What a route is not for is refused by role, enrolment, time and owner; what belongs to others does "
            "not exist."
        ),
        tried=(
            "11 callers (strangers, owners, other parties, revoked ones, some whose time is over) on every route "
            "that custodian and enclave have."
        ),
        refusals=(
            "unauthenticated: no_credential",
            "unauthenticated: credential_expired",
            "forbidden: wrong_role",
            "forbidden: foreign_consumer",
            "forbidden: not_enrolled",
            "forbidden: not_own_scope",
        ),
        entries=("refused",),
    ),
    Attack(
        41,
        name="An operator, or the custodian itself, turns against the others",
        answer="One stops; what undoes a stop or the ledger, or admits others, takes two. A changed log is refused.",
        tried="Orders of one where two are enrolled, to a running custodian; a signature of the other that was kept "
        "back, for another stop; an export without one of its grants.",
        refusals=("conflict: needs_second", "conflict: stop_changed", "log_invalid: index"),
        entries=("command_refused",),
    ),
    Attack(
        42,
        name="An operator's computer is stolen",
        answer="The file opens with its passphrase only, and from its revocation on its key orders nothing.",
        tried="Orders with a protected file and no or a wrong passphrase; a revocation under an open connection.",
        refusals=(
            "configuration: passphrase_needed",
            "configuration: wrong_passphrase",
            "forbidden: not_enrolled",
        ),
        entries=("refused",),
    ),
    Attack(
        43,
        name="A file is exchanged between check and use",
        answer=(
            "A file is opened once, without following a link or waiting for a pipe, and what is checked is what "
            "was opened."
        ),
        tried=(
            "Files are exchanged ten thousand times for links, pipes, directories and others' copies while they "
            "are read; and keys, packages and caches while verbs, a custodian and enclaves use them."
        ),
        refusals=("configuration: unsafe_key_file",),
    ),
    Attack(
        44,
        name="Secrets are read from arguments, environment, core dumps, swap or /proc",
        answer=(
            "Secrets are in files of mode 0600 alone; no process writes a core file; weights and the model's key "
            "are in the engine's memory alone, which ends with a wipe. What serves runs isolated from variables and "
            "from files where it was started."
        ),
        tried=(
            "Seven secrets are looked for in every file, command line, environment and memory of a deployment "
            "from init to a wipe (what was asked and answered last may lie in the enclave's own memory, also after the "
            "wipe); custodian and enclave are made to crash; they are started with variables that name "
            "other modules and a file for the secrets of TLS."
        ),
    ),
)
