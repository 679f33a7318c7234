"""Stop strings: where a completion ends because of what it says.

The tokens that complete a stop string stay in the completion, so that its log-probabilities are those of what was sampled; the
text is cut before the stop string when it is read (for the reward, for people).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlx.data.sequences import Tokens

_SPARE_TOKENS = 8  # beyond one token a byte: tokens that decode to nothing, or to half a character


@dataclass(frozen=True)
class StopStrings:
    """strings: none may be empty. decode: tokens to text."""

    strings: tuple[str, ...]
    decode: Callable[[Tokens], str]

    def complete(self, tokens: Tokens) -> bool:
        """Whether a stop string stands at the end of tokens, int64 [T]; asked after every token."""
        window = max(len(string.encode()) for string in self.strings) + _SPARE_TOKENS
        text = self.decode(tokens[-window:])
        return any(string in text for string in self.strings)


def cut(text: str, strings: Sequence[str]) -> str:
    """The text before the first stop string in it."""
    places = [place for string in strings if (place := text.find(string)) >= 0]
    return text[: min(places)] if places else text
