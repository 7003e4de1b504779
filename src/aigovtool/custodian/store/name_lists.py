"""Lists of names in a statement that is built once: a parameter for each name.

SQLAlchemy's own list parameters ("expanding") are written into the statement's text anew each time it is run.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, bindparam, false


def is_one_of(column: ColumnElement[str], prefix: str, count: int) -> ColumnElement[bool]:
    """Return the condition that a column is one of `count` names, which `names` gives; of none nothing is."""
    if count == 0:
        return false()
    return column.in_([bindparam(_parameter(prefix, number)) for number in range(count)])


def names(prefix: str, values: Sequence[str]) -> dict[str, str]:
    """Return the parameters of `is_one_of` for these names."""
    return {_parameter(prefix, number): value for number, value in enumerate(values)}


def _parameter(prefix: str, number: int) -> str:
    return f"{prefix}_no_{number}"  # SQLAlchemy has names of its own like `column_1`
