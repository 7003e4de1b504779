"""What a model takes as inputs, beyond its types and shapes, and how: a part of its terms (leases spec section 2)."""

from aigovtool.codec import Message


class InputTerms(Message, omit_defaults=True):
    """What the inputs of one model must be, and how they are computed.

    `finite`: elements of floating types are numbers, no NaN and no infinity. `batch`: no row of an input depends on
    another one, so that requests that come together may be computed as the rows of one.

    Terms that say nothing are no terms: the policy has none then.

    Raises:
        ValueError: (an `InvalidValueError` where it is decoded) they say nothing.
    """

    finite: bool = False
    batch: bool = False

    def __post_init__(self) -> None:
        if not (self.finite or self.batch):
            raise ValueError("terms of inputs that say nothing are left out")
