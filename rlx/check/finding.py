"""The result of testing a law on an algorithm."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

PASSED, FAILED, NOT_APPLICABLE = "passed", "failed", "not applicable"


@dataclass(frozen=True)
class Finding:
    """The result of one law.

    status: PASSED, FAILED or NOT_APPLICABLE. number: the measured value, or why the law does not apply.
    For a broken law: wrong: the fault and its size; where: the file and line, term, tensor or row; example: a small input that
    shows the fault; mend: the usual fix.
    """

    status: str
    number: str = ""
    wrong: str = ""
    where: str = ""
    example: str = ""
    mend: str = ""


@dataclass(frozen=True)
class Verdict:
    """A finding with the name of its law and the law's promise, one sentence.

    cause: for a broken law, the law broken before it whose fault probably breaks this one too; for a law that could not be
    judged, the law that met the same error before; empty if there is none.
    """

    law: str
    promise: str
    finding: Finding
    cause: str = ""

    @property
    def failed(self) -> bool:
        """Whether the law is broken."""
        return self.finding.status == FAILED

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as a JSON object."""
        return {"law": self.law, "promise": self.promise, **asdict(self.finding), "cause": self.cause}


def passed(number: str = "") -> Finding:
    """Return the finding that the algorithm obeys the law."""
    return Finding(PASSED, number)


def broken(wrong: str, *, number: str = "", where: str = "", example: str = "", mend: str = "") -> Finding:
    """Return the finding that the algorithm breaks the law."""
    return Finding(FAILED, number, wrong, where, example, mend)


def skipped(why: str) -> Finding:
    """Return the finding that the law does not apply to this algorithm."""
    return Finding(NOT_APPLICABLE, why)
