"""Prints completions of a checkpoint, or of any policy, for prompts, with their log-probabilities."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlx.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlx.cli.line import CommandLine
    from rlx.workbench.sample import Completion

WORDS = "run"


def run(cfg: DictConfig, line: CommandLine) -> int:
    """Sample what the config names and print it; returns the exit code."""
    from rlx.cli.line import allowed_targets
    from rlx.config.check import check_keys, paths_of, plain
    from rlx.config.schema import SampleConfig

    if line.is_multirun:
        raise ConfigError('rlx sample is no sweep: leave out -m; several prompts are a list, \'prompt=["12+34=","5+6="]\'')
    values = plain(cfg)
    check_keys(values, SampleConfig, "", list(paths_of(values)), owner="rlx sample")

    from rlx.workbench.choice import choose_policy
    from rlx.workbench.sample import sample_checkpoint

    groups = sample_checkpoint(cfg, choose_policy(cfg, allowed=allowed_targets(line)))
    if cfg.format == "json":
        print("\n".join(json.dumps(item.to_dict(), ensure_ascii=False) for group in groups for item in group))
    else:
        print("\n\n".join("\n".join(shown(group)) for group in groups))
    return 0


def shown(group: Sequence[Completion]) -> list[str]:
    """A prompt and its completions, one a line, the log-probability first."""
    lines = [repr(group[0].prompt)]
    for item in group:
        ending = "" if item.finished else "  (cut off)"
        reward = "" if item.reward is None else f"  reward {item.reward['reward']:g}"
        tokens = f"{item.num_tokens} token{'s' if item.num_tokens != 1 else ''}"
        lines.append(f"  logprob {item.logprob:9.4f}  {tokens:>10}{reward}  {item.text!r}{ending}")
    return lines
