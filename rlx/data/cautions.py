"""What may be wrong with a task's data: duplicates, rewards of wrong answers, sides of unequal length, prompts of plain text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlx.data.remarks import MEANT, REMARKS
from rlx.data.stores import TokenStore
from rlx.data.tokenized import DROPPED, TokenizedPairs
from rlx.data.tokens import TextEncoder
from rlx.errors import RlxError
from rlx.task.base import Pair, Pairs, Prompt, Task, Text

_LONGER = 0.7  # share of pairs with a longer chosen side above which a loss can succeed by length alone
IN_BOTH = (
    "{} prompts are both in training and held out, ignoring white space and case: the score measures memory; remove one side"
)


def cautions_of_pairs(
    task: Task,
    text: TextEncoder,
    made: tuple[TokenizedPairs, TokenizedPairs],
    counts: Mapping[str, int],
    longer: float | None,
    lengths: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """The cautions, the most serious first."""
    found = []
    dropped, remarks = (Counter[str](), Counter[str]())
    for side in made:
        dropped.update(side.dropped)
        remarks.update(side.remarks)
    found += [f"{count} rows {DROPPED[reason]}; they are dropped" for reason, count in dropped.most_common()]
    altered = [(remark, f"{count} rows {REMARKS[remark]}") for remark, count in remarks.most_common()]
    found += [said for remark, said in altered if remark not in MEANT]
    pairs = [pair for pair in (*task.pairs(), *task.held_out_pairs()) if not pair.lacks]
    found += about_plain_prompts([pair.prompt for pair in pairs], text)
    contrary = sum(pair.scores is not None and pair.scores[0] < pair.scores[1] for pair in pairs)
    if contrary and not getattr(task, "label_noise", 0):  # which exchanges the sides on purpose
        found.append(
            f"{contrary} pairs have the larger score on the rejected side; are the columns swapped? If not, remove these pairs"
        )
    if counts.get("in_both"):
        found.append(IN_BOTH.format(counts["in_both"]))
    if counts.get("white_space_pairs"):
        found.append(f"{counts['white_space_pairs']} pairs differ in white space or case alone; fix or remove them")
    if counts.get("duplicates"):
        found.append(f"{counts['duplicates']} rows are duplicates; remove them, or they count twice")
    if longer is not None and max(longer, 1 - longer) > _LONGER:
        name = "chosen" if longer > 0.5 else "rejected"
        found.append(
            f"the {name} side is longer in {max(longer, 1 - longer):.0%} of the pairs (ties count half): length "
            "alone can separate them; try loss=r_dpo, loss=simpo or algorithm/regularizer=length"
        )
    alone = "completion" in lengths
    answers = lengths.get("completion" if alone else "chosen", {}).get("quantiles", {})
    if answers and answers["0.95"] > task.max_new_tokens:
        found.append(
            f"5 % of the {'' if alone else 'chosen '}completions are longer than {answers['0.95']:g} tokens, but "
            f"task.max_new_tokens={task.max_new_tokens} truncates sampled ones; raise it"
        )
    return found + [said for remark, said in altered if remark in MEANT]


def about_plain_prompts(prompts: Sequence[Text], text: TextEncoder) -> list[str]:
    """A caution about plain-text prompts if the policy has a chat template."""
    if text.applies_plain_chat or text.chat_template in ("always", "never"):
        return []
    count = sum(isinstance(prompt, str) and not text.is_rendered(prompt) for prompt in prompts)
    if not count:
        return []
    said = (
        f"{count} prompts are plain text, to which the policy's chat template is not applied; "
        "policy.chat_template=always makes each a user message, never confirms plain text"
    )
    return [said]


# Duplicates: prompts, rows, and pairs whose sides differ only in white space or case.

_BEGINNING = 64  # characters of a completion


def repeats(sides: Sequence[Sequence[Pair]], text: TextEncoder, store: TokenStore | None) -> dict[str, int]:
    """Count duplicates; for pairs with names, the result is cached for later runs."""
    if store is None or not all(isinstance(side, Pairs) for side in sides):
        return counted_repeats(*sides)
    name = store.name_of(
        text, Path(__file__).read_text(encoding="utf-8"), *(side.name for side in sides if isinstance(side, Pairs))
    )
    kept = store.read(name)
    if kept is None:
        kept = counted_repeats(*sides)
        store.write(name, kept)
    return kept


def counted_repeats(learn: Sequence[Pair], held_out: Sequence[Pair]) -> dict[str, int]:
    """Count distinct prompts, prompts in both splits, duplicate rows, and pairs that differ only in white space or case."""
    learn, held_out = ([pair for pair in side if not pair.lacks] for side in (learn, held_out))
    everything = [*learn, *held_out]
    prompts = [squashed(pair.prompt) for pair in everything]
    often = Counter(prompts)
    again = [
        (prompt, squashed(pair.chosen), squashed(pair.rejected))
        for prompt, pair in zip(prompts, everything, strict=True)
        if often[prompt] > 1
    ]
    return {
        "prompts": len(often),
        "in_both": len({*prompts[: len(learn)]} & {*prompts[len(learn) :]}),
        "duplicates": len(again) - len(set(again)),
        "white_space_pairs": sum(pair.chosen != pair.rejected and _are_alike(pair) for pair in everything),
    }


def squashed(text: Text) -> str:
    """A text in lower case without white space."""
    return "".join(_whole(text).split()).casefold()


def _whole(text: Text) -> str:
    if isinstance(text, str):
        return text
    return "\n".join(["".join([f"{name}:{message[name]}" for name in sorted(message) if message[name]]) for message in text])


def _are_alike(pair: Pair) -> bool:
    """Whether both completions are non-empty and equal up to white space and case; compares their beginnings first."""
    chosen, rejected = _whole(pair.chosen), _whole(pair.rejected)
    begins = [squashed(side[:_BEGINNING]) for side in (chosen, rejected)]
    if not begins[0].startswith(begins[1]) and not begins[1].startswith(begins[0]):
        return False
    said = squashed(chosen)
    return bool(said) and said == squashed(rejected)


# The rewards of a correct, an empty and a wrong answer.


def shown(text: Text) -> Any:
    """A text, or messages, as JSON."""
    return text if isinstance(text, str) else [dict(message) for message in text]


def tried_rewards(task: Task) -> list[dict[str, Any]]:
    """The rewards of the first prompt's correct answer, of an empty completion, and of another prompt's answer.

    Tries nothing if completions are conversations with an environment.
    """
    if task.interaction is not None:
        return []  # there is no conversation to reward
    prompts = [prompt for prompt in task.prompts() if prompt.columns.get("answer") not in (None, "", [])]
    if not prompts:
        return [_tried(task, task.prompts()[0], "an empty answer", "")] if len(task.prompts()) else []
    prompt, right = prompts[0], _answer(task, prompts[0])
    wrong = next((answer for other in prompts[1:] if (answer := _answer(task, other)) != right), f"{right} or not")
    tries = (("the right answer", right), ("an empty answer", ""), ("a wrong answer", wrong))
    return [_tried(task, prompt, name, completion) for name, completion in tries]


def _answer(task: Task, prompt: Prompt) -> str:
    """A correct completion: the answer, within the tag in which the task looks for it."""
    answer = prompt.columns["answer"]
    plain = str(answer[0] if isinstance(answer, (list, tuple)) else answer)
    tag = getattr(task, "answer_tag", None)
    return plain if tag is None else f"<{tag}>{plain}</{tag}>"


def _tried(task: Task, prompt: Prompt, name: str, completion: str) -> dict[str, Any]:
    tried: dict[str, Any] = {"name": name, "prompt": shown(prompt.text), "completion": completion}
    try:
        return {**tried, "rewards": dict(task.reward_all([prompt], [completion])[0])}
    except RlxError as error:
        return {**tried, "error": str(error)}


def about_rewards(task: Task, tried: Sequence[Mapping[str, Any]]) -> list[str]:
    """Problems of the rewards, as text."""
    found = [f"the reward of {one['name']} fails: {one['error']}" for one in tried if "error" in one]
    values = {one["name"]: one["rewards"]["reward"] for one in tried if "rewards" in one}
    right, full = values.get("the right answer"), task.full_reward_value()
    if right is not None and full is not None and right < full:
        found.append(
            f"the right answer itself gets the reward {right:g}, but {full:g} counts as right: the rewards expect another form "
            "of it; see task.rewards"
        )
    others = [
        name for name in ("an empty answer", "a wrong answer") if right is not None and values.get(name, right - 1) >= right
    ]
    return found + [f"{name} gets the reward {values[name]:g}, no less than the right one ({right:g})" for name in others]
