"""The formula of rlx that a user's class claims to implement, by its name or docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

from rlx.errors import is_users_file

WORD = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+][A-Za-z0-9]+)*")


def claimed(owner: object, names: Sequence[str]) -> str:
    """The name of a formula that the docstring of an object's class has in capitals, or its class name contains; empty for none.

    Of a class of rlx itself nothing is asked. names: of the formulas, as options are called. ORPO is orpo, R-DPO is r_dpo.
    """
    kind = type(owner)
    try:
        if not is_users_file(inspect.getfile(kind)):
            return ""
    except (TypeError, OSError):
        return ""
    said = [word for word in WORD.findall(inspect.getdoc(kind) or "") if sum(map(str.isupper, word)) > 1]  # DPO, SimPO
    said += re.findall(r"[A-Z][A-Z0-9]*[a-z0-9]*", kind.__name__)
    return next((found for word in said if (found := re.sub(r"[-+]", "_", word).lower()) in names and len(found) > 2), "")
