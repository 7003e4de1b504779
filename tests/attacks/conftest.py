"""Fixtures of the tests that attack a whole deployment: the same real processes as end to end."""

from tests.e2e.conftest import body, digits_model, make_world

__all__ = ["body", "digits_model", "make_world"]
