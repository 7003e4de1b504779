"""Attacks by numbers, models, inputs and outputs."""

from assurance.attacks.attack import Attack

ATTACKS: tuple[Attack, ...] = (
    Attack(
        24,
        name="Numbers that parsers read differently",
        answer="",
        tried="",
    ),
    Attack(
        25,
        name="A malformed model",
        answer="",
        tried="",
    ),
    Attack(
        26,
        name="A model that reads files or loads code",
        answer="",
        tried="",
    ),
    Attack(
        27,
        name="Bodies that unpack to far more",
        answer="",
        tried="",
    ),
    Attack(
        28,
        name="Enormous tensors and shapes that overflow",
        answer="",
        tried="",
    ),
    Attack(
        29,
        name="Inputs that are slow or have no meaning: NaN, infinities, denormals",
        answer="",
        tried="",
    ),
    Attack(
        30,
        name="A model is copied by its outputs",
        answer="",
        tried="",
    ),
    Attack(
        31,
        name="Size and time of answers tell what was answered",
        answer="",
        tried="",
    ),
    Attack(
        32,
        name="One consumer gets what belongs to another",
        answer="",
        tried="",
    ),
    Attack(
        33,
        name="Custodian or borrower read what consumers ask",
        answer="",
        tried="",
    ),
)
