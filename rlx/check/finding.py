"""What a law of the contract says of an algorithm."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

PASSED, FAILED, NOT_APPLICABLE = "passed", "failed", "not applicable"


@dataclass(frozen=True)
class Finding:
    """One law's verdict.

    number: what was measured; wrong: what is wrong and by how much; where: the term, tensor or row; example: the smallest input
    that shows it; mend: the usual remedy. The last four are empty where the law holds.
    """

    status: str
    number: str = ""
    wrong: str = ""
    where: str = ""
    example: str = ""
    mend: str = ""


@dataclass(frozen=True)
class Verdict:
    """A law's name, its promise in one sentence, and what came of it."""

    law: str
    promise: str
    finding: Finding

    @property
    def failed(self) -> bool:
        """Is the law broken?"""
        return self.finding.status == FAILED

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"law": self.law, "promise": self.promise, **asdict(self.finding)}


def holds(number: str = "") -> Finding:
    """The law is kept."""
    return Finding(PASSED, number)


def broken(wrong: str, *, number: str = "", where: str = "", example: str = "", mend: str = "") -> Finding:
    """The law is broken."""
    return Finding(FAILED, number, wrong, where, example, mend)


def skipped(why: str) -> Finding:
    """The law does not concern this algorithm."""
    return Finding(NOT_APPLICABLE, why)
