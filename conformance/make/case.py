"""One vector that is to be made, and how vectors are written into files."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import msgspec

from aigovtool.attestation.model import Evidence
from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.codec import encode
from conformance.suite import Expected, Vector


@dataclass(frozen=True)
class Case:
    """Evidence and the verdict that it must get: genuine without a `reason`, acceptable without a `refused`."""

    name: str
    title: str
    evidence: Evidence
    at_ms: int
    roots: tuple[tuple[str, bytes], ...]
    reason: str | None = None
    policy: tuple[str, AppraisalPolicy] | None = None
    refused: str | None = None
    nonce: str | None = None
    says: dict[str, Any] = field(default_factory=dict)

    def expected(self) -> Expected:
        """Return the verdict."""
        judged = self.policy is not None and self.reason is None
        return Expected(
            genuine=self.reason is None,
            reason=self.reason,
            acceptable=self.refused is None if judged else None,
            refused=self.refused,
            says=self.says,
        )


@dataclass
class Files:
    """What is to be written: the same content once, under the name of the first vector that has it."""

    by_name: dict[str, bytes] = field(default_factory=dict)
    by_content: dict[bytes, str] = field(default_factory=dict)

    def put(self, name: str, content: bytes) -> str:
        """Return the name under which this content lies."""
        if content not in self.by_content:
            if self.by_name.setdefault(name, content) != content:
                raise ValueError(f"two files are called {name}")
            self.by_content[content] = name
        return self.by_content[content]

    def vector(self, case: Case) -> Vector:
        """Return the vector of a case, whose files are put here."""
        tee = case.evidence.tee.value
        stem = f"{tee}/{case.name}"
        # What a bundle is labelled as is part of the vector; whose verifier is asked is the label's business.
        return Vector(
            name=case.name,
            title=case.title,
            tee=tee,
            at_ms=case.at_ms,
            data=self.put(f"{stem}.bin", case.evidence.data),
            endorsements=tuple(
                self.put(f"{stem}.{number}.end", one) for number, one in enumerate(case.evidence.endorsements, 1)
            ),
            roots=tuple(self.put(f"roots/{name}", one) for name, one in case.roots),
            nonce=case.nonce,
            policy=None if case.policy is None else self.put(f"policies/{case.policy[0]}", _policy(case.policy[1])),
            expected=case.expected(),
        )


@cache
def _policy(policy: AppraisalPolicy) -> bytes:
    return json.dumps(json.loads(encode(policy)), indent=1).encode() + b"\n"


def listed(vectors: Iterable[Vector]) -> bytes:
    """Return the file that lists the vectors of one TEE: a line for each, so that a change shows in one line."""
    lines = ",\n".join(msgspec.json.encode(one).decode() for one in vectors)
    return f"[\n{lines}\n]\n".encode()
