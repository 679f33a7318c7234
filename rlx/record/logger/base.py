"""The interface of a tracker. Your own is a subclass of `Logger`, chosen by its dotted name; its fields are its config."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rlx.errors import ConfigError
from rlx.fields import Ranged
from rlx.nested import leaves
from rlx.record.files import completion_text, prompt_text
from rlx.record.run import RunRecord


class Logger(Ranged):
    """Tracks one run. An error that it raises after `check` switches it off with one warning; it cannot stop the run.

    extra: the extra of rlx that installs its packages; packages: the modules that it imports, in `open` and not before.
    """

    extra: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        """Called before anything is loaded. Raises ConfigError if the tracker could not work from the start."""
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                mend = f"pip install 'rlx[{self.extra}]'" if self.extra else f"install {package}"
                raise ConfigError(f"logger {type(self).__name__} needs the package {package}, which is not installed; {mend}")

    def open(self, run: RunRecord, *, resumed_at: int | None = None) -> None:
        """The run begins in `run.directory`, or resumes after the step `resumed_at`."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of a step or of an evaluation; values may be NaN or infinite."""

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Sample completions, each with `prompt`, `completion`, `reward`, ..."""

    def close(self, status: str) -> None:
        """The run ended: completed, failed or interrupted."""


def logged_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys and plain values of a resolved config: `algorithm.loss.beta`, 0.1. Lists become text; null is left out."""
    kept = {path: value for path, value in leaves(config).items() if value is not None and not isinstance(value, Mapping)}
    return {clean(path): value if isinstance(value, bool | int | float) else clean(str(value)) for path, value in kept.items()}


def clean(value: Any) -> Any:
    """The value with texts that any encoding accepts: half a character, as a shell or a policy may leave, is replaced."""
    if isinstance(value, Mapping):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def already_logged(run: RunRecord) -> int:
    """The last step that trackers saw before a resume; -1 in a run that was not resumed.

    A resumed run repeats the uninterrupted one, so a tracker that cannot delete values may skip steps up to this one.
    """
    return int(run.resumed[-1].get("logged", -1)) if run.resumed else -1


def samples_as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Sample completions for trackers that render markdown; the policy's text is in code blocks, unchanged."""
    parts = []
    for row in rows:
        facts = ", ".join(f"{key} {value}" for key, value in row.items() if isinstance(value, (bool, int, float)))
        texts = {"prompt": prompt_text(row.get("prompt")), "completion": completion_text(row)}
        blocks = [_block(name, text) for name, text in texts.items() if name in row]
        parts.append("\n\n".join([*blocks, facts] if facts else blocks))
    return "\n\n---\n\n".join(parts)


def _block(name: str, text: Any) -> str:
    lines = clean(str(text)).splitlines() or [""]
    return f"**{name}**\n\n" + "\n".join("    " + line for line in lines)
