"""Attacks on the servers, on their logs, and by their operators."""

from assurance.attacks.attack import Attack

ATTACKS: tuple[Attack, ...] = (
    Attack(
        34,
        name="Slow and idle connections by the thousand",
        answer="",
        tried="",
    ),
    Attack(
        35,
        name="Two readers of one request see two requests",
        answer="",
        tried="",
    ),
    Attack(
        36,
        name="Lines are forged in logs",
        answer="",
        tried="",
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
        answer="",
        tried="",
    ),
    Attack(
        41,
        name="An operator, or the custodian itself, turns against the others",
        answer="One stops; what undoes a stop or the ledger, or admits others, takes two. A changed log is refused.",
        tried="Orders of one where two are enrolled, to a running custodian; an export without one of its grants.",
        refusals=("conflict: needs_second", "log_invalid: index"),
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
        answer="",
        tried="",
    ),
    Attack(
        44,
        name="Secrets are read from arguments, environment, core dumps, swap or /proc",
        answer=(
            "Secrets are in files of mode 0600 alone; no process writes a core file; weights and the model's key "
            "are in the engine's memory alone, which ends with a wipe."
        ),
        tried=(
            "Seven secrets are looked for in every file, command line, environment and memory of a deployment "
            "from init to a wipe; custodian and enclave are made to crash."
        ),
    ),
)
