"""The formula of rlx that a user's class claims to implement, by its name or docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

from rlx.errors import is_users_file

WORD = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+][A-Za-z0-9]+)*")


def claimed(owner: object, names: Sequence[str]) -> str:
    """Return the name of the formula that an object's class claims to implement; empty if it claims none.

    A class claims a formula by a word in capitals in its docstring, or by its own name; classes of rlx claim none. names: of the
    formulas, written as options are: ORPO is orpo, R-DPO is r_dpo.
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
