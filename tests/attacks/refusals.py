"""What a refusal is: a problem document of ours, with a status that belongs to it."""

from typing import Any

from tests.e2e.world import Answer


def refusal_of(answer: Answer, *statuses: int) -> dict[str, Any]:
    """Return the problem document of a refusal, which has one of these statuses and is one of ours."""
    assert answer.status in (statuses or range(400, 500)), (answer.status, answer.body[:300])
    assert answer.headers["content-type"] == "application/problem+json", answer.headers
    problem = answer.json()
    assert problem["status"] == answer.status
    assert problem["code"]
    assert problem["error"]
    return problem
