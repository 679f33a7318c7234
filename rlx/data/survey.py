"""What a task's data is once it is tokens: what is kept, dropped and why, their lengths, and cautions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from rlx.data.cautions import (
    IN_BOTH,
    about_plain_prompts,
    about_rewards,
    cautions_of_pairs,
    repeats,
    shown,
    squashed,
    tried_rewards,
)
from rlx.data.remarks import REMARKS
from rlx.data.tokenized import DROPPED, TokenizedPairs
from rlx.data.tokens import TextEncoder
from rlx.errors import DataError
from rlx.seeding import Stream
from rlx.task.base import Pair, Prompt, Task
from rlx.task.environment import Conversation, Interaction

QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
_BINS = 12
_AT_ONCE = 512  # prompts tokenised together
_OPENED = 16  # conversations opened by an environment
_LOOKED_AT = 1000  # prompts that a run inspects before it starts


@dataclass(frozen=True)
class DataSurvey:
    """The facts about a task's data under a policy's tokenizer.

    counts: read, kept, dropped, learn, held_out (rows); prompts (distinct); duplicates, in_both, white_space_pairs,
    truncated.
    dropped, remarks: for each reason its name, the number of rows, its meaning, and an example.
    lengths: of prompt, chosen and rejected in tokens: mean, quantiles and a histogram; of demonstrations: prompt and completion.
    chosen_longer: share of pairs, or None.
    tokens_per_step: read by one step. notes: facts about columns. cautions: possible problems, each with its fix.
    rewards: the rewards of a correct, an empty and a wrong answer. examples: token by token.
    """

    counts: dict[str, int]
    dropped: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[dict[str, Any]] = field(default_factory=list)
    lengths: dict[str, dict[str, Any]] = field(default_factory=dict)
    chosen_longer: float | None = None
    tokens_per_step: float = 0.0
    notes: list[str] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    rewards: list[dict[str, Any]] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)


def survey(task: Task, policy: Any, *, num_examples: int = 4, rows_per_step: int = 64) -> DataSurvey:
    """Look at all of a task's data. policy: its tokenizer and its limits decide what is kept."""
    made = _of_pairs(task, policy, num_examples, rows_per_step) if task.has_pairs else _of_prompts(task, policy, num_examples)
    made.notes.extend(task.notes())
    if "rewards" in task.offers:
        made.rewards.extend(tried_rewards(task))
        made.cautions.extend(about_rewards(task, made.rewards))
    return made


def brief(task: Task, policy: Any) -> dict[str, str]:
    """The two lines that a run shows: the lengths of the data, and the first caution."""
    learn, held_out = policy.pair_tokenizer(task.pairs()), policy.pair_tokenizer(task.held_out_pairs())
    if not len(learn):
        return {}
    lengths, longer = _lengths(learn, task), _chosen_longer(learn)
    said = ", ".join(f"{name} {_short(values)}" for name, values in lengths.items())
    share = "" if longer is None else f"; chosen is longer in {longer:.0%} of pairs"
    cautions = cautions_of_pairs(task, policy.text, (learn, held_out), Counter(), longer, lengths)
    rest = f" (and {len(cautions) - 1} more: rlx data)" if len(cautions) > 1 else ""
    lengths_text = f"in tokens, 25 to 75 % quantile (maximum): {said}{share}"
    return {"lengths": lengths_text, **({"caution": cautions[0] + rest} if cautions else {})}


def brief_of_prompts(task: Task, text: TextEncoder) -> dict[str, str]:
    """The first caution about the prompts, as a run shows it; if there are many prompts, about the first ones."""
    if task.interaction is not None:
        return {}  # the environment creates the prompts
    prompts = [*task.prompts(), *task.held_out_prompts()]
    remarks = _of_each_prompt(prompts[:_LOOKED_AT], text)
    of = f" of the first {_LOOKED_AT:,}" if len(prompts) > _LOOKED_AT else ""
    found = [f"{row['count']}{of} prompts {row['meaning']}" for row in remarks]
    found += about_plain_prompts([prompt.text for prompt in prompts], text)
    rest = f" (and {len(found) - 1} more: rlx data)" if len(found) > 1 else ""
    return {"caution": found[0] + rest} if found else {}


def _short(values: Mapping[str, Any]) -> str:
    quantiles = values["quantiles"]
    return f"{quantiles['0.25']:g} to {quantiles['0.75']:g} ({quantiles['1']:g})"


def _of_pairs(task: Task, policy: Any, num_examples: int, rows_per_step: int) -> DataSurvey:
    sides = [task.pairs(), task.held_out_pairs()]
    made = [policy.pair_tokenizer(side) for side in sides]
    learn, held_out = made
    counts = Counter(
        {
            "read": sum(map(len, sides)),
            "kept": len(learn) + len(held_out),
            "dropped": sum(sum(side.dropped.values()) for side in made),
            "learn": len(learn),
            "held_out": len(held_out),
            "truncated": learn.truncated + held_out.truncated,
        }
    )
    counts.update(repeats(sides, policy.text, policy.pair_tokenizer.store))
    lengths, longer = _lengths(learn, task), _chosen_longer(learn)
    return DataSurvey(
        counts=dict(counts),
        dropped=_reasons([side.dropped for side in made], DROPPED, sides, made),
        remarks=_reasons([side.remarks for side in made], REMARKS, sides, made),
        lengths=lengths,
        chosen_longer=longer,
        tokens_per_step=float(learn.lengths.mean() * min(rows_per_step, len(learn))) if len(learn) else 0.0,
        cautions=cautions_of_pairs(task, policy.text, (learn, held_out), counts, longer, lengths),
        examples=[_example(learn, row, policy.text) for row in range(min(num_examples, len(learn)))],
    )


def _of_prompts(task: Task, policy: Any, num_examples: int) -> DataSurvey:
    sides = [task.prompts(), task.held_out_prompts()]
    texts = [{squashed(prompt.text) for prompt in side} for side in sides]
    lacking = len(task.dropped_rows())
    sampled, failures = _as_sampled(task, policy, sides)
    asked = [(prompt.text, prompt.tools) for prompt in sampled[0]]
    parts = (asked[start : start + _AT_ONCE] for start in range(0, len(asked), _AT_ONCE))
    encoded = [ids for part in parts for ids in policy.text.encode_prompts(part)]
    counts = {
        "read": sum(map(len, sides)) + lacking,
        "kept": sum(map(len, sides)),
        "dropped": lacking,
        "learn": len(sides[0]),
        "held_out": len(sides[1]),
        "prompts": len(texts[0] | texts[1]),
        "duplicates": sum(map(len, sides)) - sum(map(len, texts)),
        "in_both": len(texts[0] & texts[1]),
    }
    remarks = _of_each_prompt([prompt for side in sampled for prompt in side], policy.text)
    tells = task.interaction is None or counts["prompts"] > 1  # an opening shared by all games cannot be memorised
    cautions = [IN_BOTH.format(counts["in_both"])] if counts["in_both"] and tells else []
    if failures:
        tried = len(failures) + sum(map(len, sampled))
        cautions.append(
            f"{len(failures)} of {tried} conversations could not be opened by the environment; for example, {failures[0]}"
        )
    plain = about_plain_prompts([prompt.text for side in sampled for prompt in side], policy.text)
    examples = [
        {"prompt_ids": ids.tolist(), "completions": [], "text": policy.text.tokenizer.decode(ids.tolist())}
        for ids in encoded[:num_examples]
    ]
    lengths = {"prompt": _distribution([len(ids) for ids in encoded])} if encoded else {}
    dropped = _lacking(task.dropped_rows())
    cautions[:0] = [f"{row['count']} rows {row['meaning']}; they are dropped" for row in dropped]
    made = DataSurvey(counts, dropped, remarks, lengths, cautions=cautions + plain, examples=examples)
    if len(sides[0]) > _OPENED and len(asked) < len(sides[0]):
        made.notes.append(f"the environment opened the first {_OPENED} of {len(sides[0]):,} prompts; the lengths describe these")
    return made


def _as_sampled(task: Task, policy: Any, sides: Sequence[Sequence[Prompt]]) -> tuple[list[list[Prompt]], list[str]]:
    """The prompts of each split as sampling uses them, and the errors of those that failed.

    With an environment, they are its openings for the first prompts, with its tools; raises DataError if it opens none.
    """
    if task.interaction is None:
        return [list(prompts) for prompts in sides], []
    failures: list[str] = []
    found = [_opened(task.interaction, policy, prompts, failures) for prompts in sides]
    if failures and not any(found):
        raise DataError(failures[0])
    return found, failures


def _opened(interaction: Interaction, policy: Any, prompts: Sequence[Prompt], failures: list[str]) -> list[Prompt]:
    """The openings of the first prompts; errors of others are added to `failures`."""
    environment = interaction.environment.for_policy(policy)
    talks = [
        Conversation.of(environment, prompt, name=f"prompt {place + 1}", stream=Stream(0, ("survey", place)))
        for place, prompt in enumerate(prompts[:_OPENED])
    ]
    found = []
    for talk, outcome in zip(talks, interaction.calls.run([talk.start for talk in talks]), strict=True):
        try:
            if isinstance(outcome, BaseException):
                raise outcome
            talk.started(outcome)
        except Exception as error:  # raised by the user's code
            said = f"{type(error).__name__}: {error}"
            failures.append(f"start of {type(environment).__name__} opens no conversation for {talk.name}: {said}")
        else:
            found.append(replace(talk.prompt, text=talk.opening, tools=environment.tool_schemas()))
    return found


def _of_each_prompt(prompts: Sequence[Prompt], text: TextEncoder) -> list[dict[str, Any]]:
    """The remarks on prompts without completions."""
    found: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        for remark in text.prompt_remarks(prompt.text, prompt.tools):
            found.setdefault(remark, []).append(place)
    return [
        {
            "reason": remark,
            "count": len(places),
            "meaning": REMARKS[remark],
            "said": "",
            "example": {"source": f"prompt {places[0] + 1}", "prompt": shown(prompts[places[0]].text)},
        }
        for remark, places in sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _reasons(
    counts: Sequence[Mapping[str, int]],
    meanings: Mapping[str, str],
    sides: Sequence[Sequence[Pair]],
    made: Sequence[TokenizedPairs],
) -> list[dict[str, Any]]:
    total: Counter[str] = sum((Counter(side) for side in counts), Counter())
    rows = []
    for reason, count in total.most_common():
        side, (row, said) = next((n, one.shown[reason]) for n, one in enumerate(made) if reason in one.shown)
        pair = sides[side][row]
        said = _counted([each.lacks for each in chain(*sides) if each.lacks]) if pair.lacks else said
        said_in = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
        example = {"source": pair.source, **{name: shown(text) for name, text in said_in.items()}}
        rows.append({"reason": reason, "count": count, "meaning": meanings[reason], "said": said, "example": example})
    return rows


def _lacking(rows: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Like `_reasons`, for file rows without a usable prompt: their positions, and what is missing."""
    said = _counted([lacks for _, lacks in rows])
    example = {"source": rows[0][0]} if rows else {}
    row = {"reason": "lacking", "count": len(rows), "meaning": DROPPED["lacking"], "said": said, "example": example}
    return [row] if rows else []


def _counted(lacks: Sequence[str]) -> str:
    """The three most frequent things that rows lack, with counts."""
    return "; ".join(f"in {count}: {what}" for what, count in Counter(lacks).most_common(3))


def _lengths(pairs: TokenizedPairs, task: Task) -> dict[str, dict[str, Any]]:
    """The lengths of prompts, and of the learned tokens of existing completions."""
    if not len(pairs):
        return {}
    found = {"prompt": [len(prompt) for prompt in pairs.sequences.prompts]}
    learned = pairs.sequences.learned_lengths.numpy()
    for column, name in enumerate(("completion",) if "demonstrations" in task.offers else ("chosen", "rejected")):
        found[name] = learned[:, column][learned[:, column] > 0].tolist()
    return {name: _distribution(values) for name, values in found.items() if len(values)}


def _distribution(values: Sequence[int]) -> dict[str, Any]:
    width = -(-(max(values) - min(values) + 1) // _BINS)
    edges = np.arange(min(values), max(values) + width + 1, width)  # bins include their lower edge
    numbers, _ = np.histogram(values, bins=edges)
    quantiles = {f"{q:g}": float(np.quantile(values, q)) for q in QUANTILES}
    bins = [
        {"from": int(first), "to": int(first) + width - 1, "count": int(count)}
        for first, count in zip(edges, numbers, strict=False)
    ]
    return {"mean": float(np.mean(values)), "quantiles": quantiles, "histogram": bins}


def _chosen_longer(pairs: TokenizedPairs) -> float | None:
    """The share of pairs whose chosen side has more learned tokens, ties counting half; None for single completions."""
    learned = pairs.sequences.learned_lengths.numpy()
    if not len(pairs) or pairs.has_label is not None:
        return None
    return float(((learned[:, 0] > learned[:, 1]) + 0.5 * (learned[:, 0] == learned[:, 1])).mean())


def _example(pairs: TokenizedPairs, row: int, text: TextEncoder) -> dict[str, Any]:
    sequences = pairs.sequences
    prompt, group = sequences.prompts[row], sequences.completions[row]
    masks = [np.ones(len(ids), dtype=bool) for ids in group] if sequences.learned is None else sequences.learned[row]
    there = [(ids, mask) for ids, mask in zip(group, masks, strict=True) if len(ids)]
    return {
        "prompt_ids": prompt.tolist(),
        "completions": [{"ids": ids.tolist(), "learned": mask.tolist()} for ids, mask in there],
        "text": text.tokenizer.decode([*prompt.tolist(), *(there[0][0].tolist() if there else [])]),
    }
