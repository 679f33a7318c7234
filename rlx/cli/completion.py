"""Shell completion: Hydra's own, with the verb cut out of the line that it is asked about."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from rlx.cli.words import is_override, verbs


def cut_verb(environment: MutableMapping[str, str]) -> tuple[str | None, list[str]]:
    """Take the verb out of COMP_LINE and shift COMP_POINT.

    Returns the verb, and the verbs that could complete the word at the cursor.
    """
    line = environment.get("COMP_LINE", "")
    point = int(environment.get("COMP_POINT") or len(line))
    known = verbs()
    start = 0
    words: list[tuple[int, str]] = []
    for word in line.split():
        start = line.index(word, start)
        words.append((start, word))
        start += len(word)
    for place, word in words[1:]:
        ends_before_cursor = place + len(word) < len(line)
        if word in known and ends_before_cursor:
            cut = line[:place] + line[place + len(word) :].lstrip()
            environment["COMP_LINE"] = cut
            environment["COMP_POINT"] = str(max(place, point - (len(line) - len(cut))))
            return word, []
        if not word.startswith("-") and not is_override(word) and ends_before_cursor:
            return None, []
    typed = "" if line.endswith(" ") or len(words) < 2 else words[-1][1]
    return None, [verb for verb in known if verb.startswith(typed)]


def is_query(overrides: list[str]) -> bool:
    """Whether Hydra is asked for completions, not for the script that installs them."""
    return any(override.startswith("query=") for override in overrides) and "COMP_LINE" in os.environ
