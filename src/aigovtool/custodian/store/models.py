"""Registered models."""

from functools import lru_cache
from typing import Final

from sqlalchemy import Select, bindparam, insert, select, update

from aigovtool.codec import encode
from aigovtool.custodian.store import name_lists
from aigovtool.custodian.store.bodies import decoded
from aigovtool.custodian.store.records import Model
from aigovtool.custodian.store.schema import models
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConflictError, NotFoundError
from aigovtool.ids import Digest, ModelId

_FIND: Final = select(models.c.body).where(models.c.model == bindparam("wanted"))


def add(transaction: Transaction, model: Model) -> None:
    """Insert a model.

    Raises:
        ConflictError: the name is taken.
    """
    if find(transaction, model.model) is not None:
        raise ConflictError(f"a model named {model.model} exists already", reason="model_exists")
    transaction.execute(insert(models).values(model=model.model, package=model.package, body=encode(model)))


def find(transaction: Transaction, model: ModelId) -> Model | None:
    """Return a model, withdrawn or not."""
    body = transaction.execute(_FIND, {"wanted": model}).scalar_one_or_none()
    return None if body is None else decoded(body, Model)


def among(transaction: Transaction, names: list[ModelId]) -> list[Model]:
    """Return those of `names` that were ever registered."""
    if not names:
        return []
    found = transaction.execute(_among(len(names)), name_lists.names("name", names))
    return [decoded(body, Model) for (body,) in found]  # `scalars` takes as long as the statement


@lru_cache
def _among(count: int) -> Select[tuple[bytes]]:
    return select(models.c.body).where(name_lists.is_one_of(models.c.model, "name", count))


def require(transaction: Transaction, model: ModelId) -> Model:
    """Return a model that can be lent.

    Raises:
        NotFoundError: unknown or withdrawn.
    """
    found = find(transaction, model)
    if found is None or found.withdrawn:
        raise NotFoundError(f"no model {model} is lent here", reason="no_such_model")
    return found


def replace(transaction: Transaction, model: Model) -> None:
    """Write a changed model."""
    transaction.execute(update(models).where(models.c.model == model.model).values(body=encode(model)))


def everything(transaction: Transaction) -> list[Model]:
    """Return all models."""
    return [
        decoded(body, Model) for body in transaction.execute(select(models.c.body).order_by(models.c.model)).scalars()
    ]


def packages(transaction: Transaction) -> set[Digest]:
    """Return the packages that models refer to."""
    return {Digest(package) for package in transaction.execute(select(models.c.package)).scalars()}
