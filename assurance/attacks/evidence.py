"""Attacks on evidence: old, borrowed, altered or of something else."""

from assurance.attacks.attack import Attack

ATTACKS: tuple[Attack, ...] = (
    Attack(
        1,
        name="Evidence is sent again",
        answer="",
        tried="",
    ),
    Attack(
        2,
        name="Genuine evidence is relayed from another channel",
        answer="",
        tried="",
    ),
    Attack(
        3,
        name="Another genuine machine is offered",
        answer="",
        tried="",
    ),
    Attack(
        4,
        name="Evidence made in one role or for one audience is used in another",
        answer="",
        tried="",
    ),
    Attack(
        5,
        name="A debug, migratable or otherwise weakened guest is offered",
        answer="",
        tried="",
    ),
    Attack(
        6,
        name="An old TCB, old collateral, or a withheld revocation list is offered",
        answer="",
        tried="",
    ),
    Attack(
        7,
        name="Signatures and chains are bent: encodings, zeros, curves, certificates swapped, added or re-keyed",
        answer="",
        tried="",
    ),
    Attack(
        8,
        name="The simulated TEE is passed off as acceptable",
        answer="",
        tried="",
    ),
    Attack(
        9,
        name="Evidence is made to crash or to occupy whoever reads it",
        answer="",
        tried="",
    ),
    Attack(
        10,
        name="URLs in evidence make a verifier ask other machines",
        answer="",
        tried="",
    ),
    Attack(
        11,
        name="An older or foreign appraisal policy is put in place",
        answer="",
        tried="",
    ),
)
