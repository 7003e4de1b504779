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
        answer="",
        tried="",
    ),
    Attack(
        38,
        name="A page of somebody else acts in an operator's name",
        answer="",
        tried="",
    ),
    Attack(
        39,
        name="A session is stolen or guessed",
        answer="",
        tried="",
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
        answer="",
        tried="",
    ),
)
