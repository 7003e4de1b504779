"""What a test of an attack saw, noted with its result, so that a table of attacks tells nothing that nobody saw."""

from typing import Any

import pytest

from aigovtool.errors import AIGovToolError


class Observed:
    """Takes notes for the test that asked for it. Noting is not checking: a test asserts first."""

    def __init__(self, node: pytest.Item) -> None:
        """Note with the reports of `node`."""
        self._node = node

    def refusal(self, refused: AIGovToolError | dict[str, Any]) -> str:
        """Note a typed error, or a problem document, and return it as "code: reason"."""
        told = (refused.code, refused.reason) if isinstance(refused, AIGovToolError) else _told(refused)
        words = ": ".join(one for one in told if one)
        self._note("refusal", words)
        return words

    def entry(self, kind: str) -> None:
        """Note a kind of entry that the audit log has because of the attack."""
        self._note("entry", kind)

    def figure(self, what: str, value: float) -> None:
        """Note a number that shows that the attack was really tried, or how little came of it."""
        self._note("figure", f"{what}: {value:,}")

    def _note(self, name: str, words: str) -> None:
        self._node.user_properties.append((name, words))


def _told(problem: dict[str, Any]) -> tuple[str, str | None]:
    return problem["code"], problem.get("reason")
