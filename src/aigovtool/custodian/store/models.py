"""Registered models."""

from sqlalchemy import Connection, insert, select, update

from aigovtool.codec import decode, encode
from aigovtool.custodian.store.records import Model
from aigovtool.custodian.store.schema import models
from aigovtool.errors import ConflictError, NotFoundError
from aigovtool.ids import Digest, ModelId


def add(connection: Connection, model: Model) -> None:
    """Insert a model.

    Raises:
        ConflictError: the name is taken.
    """
    if find(connection, model.model) is not None:
        raise ConflictError(f"a model named {model.model} exists already", reason="model_exists")
    connection.execute(insert(models).values(model=model.model, package=model.package, body=encode(model)))


def find(connection: Connection, model: ModelId) -> Model | None:
    """Return a model, withdrawn or not."""
    body = connection.execute(select(models.c.body).where(models.c.model == model)).scalar_one_or_none()
    return None if body is None else decode(body, Model)


def require(connection: Connection, model: ModelId) -> Model:
    """Return a model that can be lent.

    Raises:
        NotFoundError: unknown or withdrawn.
    """
    found = find(connection, model)
    if found is None or found.withdrawn:
        raise NotFoundError(f"no model {model} is lent here", reason="no_such_model")
    return found


def replace(connection: Connection, model: Model) -> None:
    """Write a changed model."""
    connection.execute(update(models).where(models.c.model == model.model).values(body=encode(model)))


def everything(connection: Connection) -> list[Model]:
    """Return all models."""
    return [
        decode(body, Model) for body in connection.execute(select(models.c.body).order_by(models.c.model)).scalars()
    ]


def packages(connection: Connection) -> set[Digest]:
    """Return the packages that models refer to."""
    return {Digest(package) for package in connection.execute(select(models.c.package)).scalars()}
