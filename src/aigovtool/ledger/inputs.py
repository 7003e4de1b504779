"""What a model takes as inputs, beyond its types and shapes: a part of its terms (leases spec section 2)."""

from aigovtool.codec import Message


class InputTerms(Message, omit_defaults=True):
    """What the inputs of one model must be. `finite`: elements of floating types are numbers, no NaN and no infinity.

    Terms that demand nothing are no terms: the policy has none then.

    Raises:
        ValueError: (an `InvalidValueError` where it is decoded) they demand nothing.
    """

    finite: bool = False

    def __post_init__(self) -> None:
        if not self.finite:
            raise ValueError("terms of inputs that demand nothing are left out")
