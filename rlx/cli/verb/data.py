"""Shows what a policy would read and learn from a task's data: counts, lengths, cautions, and examples token by token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from rlx.config.schema import at_least
from rlx.fields import non_empty

if TYPE_CHECKING:
    from rlx.config.compose import Composed


@dataclass
class DataConfig:
    """The keys of rlx data."""

    task: Any = MISSING
    policy: Any = MISSING
    examples: int = at_least(0)
    rows_per_step: int = at_least(1)
    html: str | None = MISSING
    json: bool = MISSING
    cache_dir: str = non_empty(default=MISSING)


SCHEMA = DataConfig
NO_SWEEP = "look at one file after the other"


def run(composed: Composed) -> int:
    """Survey the data that the config names and print it; returns the exit code."""
    from pathlib import Path

    from rlx.data.survey import survey
    from rlx.experiment import make, make_reader, pair_store, token_store
    from rlx.record.files import full_disk_explained, write_atomic
    from rlx.report.survey import example_text, survey_lines, survey_page

    cfg = composed.config
    task = make(cfg.task, key="task")
    task.keep_in(pair_store(cfg.cache_dir))
    for offered, load in ((task.has_pairs, task.pairs), ("rewards" in task.offers, task.prompts)):
        if offered:
            load()  # a bad file is reported before a tokenizer is loaded
    policy = make_reader(cfg.policy)
    policy.pair_tokenizer.store = token_store(cfg.cache_dir)
    found = survey(task, policy, num_examples=cfg.examples, rows_per_step=cfg.rows_per_step)

    def decode(ids: list[int]) -> str:
        return str(policy.tokenizer.decode(ids))

    if cfg.html is not None:
        place = Path(cfg.html).expanduser()
        page = survey_page(found, decode, title=f"{task.name} as {policy.name} reads it")
        with full_disk_explained(place, key="html=FILE"):
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(place, page)
    if cfg.json:
        print(json.dumps(vars(found), ensure_ascii=False))
        return 0
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for text in survey_lines(found):
        console.print(text, markup=False)
    for example in found.examples:
        console.print()
        console.print(example_text(example, decode), end="")
    if cfg.html is not None:
        console.print(f"\npage       {cfg.html}", markup=False)
    return 0
