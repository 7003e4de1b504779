"""What a request to a model costs, in words: budgets are sized by it."""

from collections.abc import Sequence
from typing import Final

#: What to do about a model whose requests cost one inference, whatever they hold.
SIZED: Final = "to have rows charged, give every input a first axis of any size, and seal the model again"


def charge_fact(per: str, of_any_size: Sequence[str]) -> tuple[str, str]:
    """Return in words what one request costs of the model's inferences; `per` is a `ChargedPer`."""
    if per == "row":
        words = "1 inference for each row: the largest first axis of its inputs"
    elif of_any_size:
        words = f"1 inference, however much it holds in {', '.join(of_any_size)}"
    else:
        words = "1 inference: all inputs have a fixed size"
    return "a request costs", words
