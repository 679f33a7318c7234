"""Completions of a checkpoint, or of any policy, with their log-probabilities."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from omegaconf import DictConfig, OmegaConf

from rlx.errors import ConfigError, DataError
from rlx.experiment import set_threads, torch_device
from rlx.policy.base import Policy
from rlx.rollout.play import Played, play
from rlx.rollout.sampler import Rollout, Sampler
from rlx.seeding import Stream
from rlx.task.base import Prompt, Task, Text
from rlx.task.messages import as_text
from rlx.workbench.choice import PolicyChoice

LONGEST = 128  # tokens, if neither the rollout nor a task sets a limit
_OF_ROLLOUT = ("temperature", "top_k", "top_p", "min_p", "stop", "max_new_tokens")


@dataclass(frozen=True)
class Completion:
    """One completion. logprob: of all its tokens under the policy at temperature 1, in nats, including the end token if any.

    reward: name -> value if the prompt comes from the task and the task gives rewards, else None.
    turns: of a conversation with the task's environment, its messages, those of the assistant with their rewards; else None.
    """

    prompt: Text
    text: str
    logprob: float
    num_tokens: int
    finished: bool
    reward: Mapping[str, float] | None
    turns: list[dict[str, Any]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The sample as a JSON object."""
        prompt = self.prompt if isinstance(self.prompt, str) else list(self.prompt)
        fields = {"logprob": self.logprob, "num_tokens": self.num_tokens, "finished": self.finished}
        optional = {"reward": self.reward, "turns": self.turns}
        given = {name: value for name, value in optional.items() if value is not None}
        return {"prompt": prompt, "completion": self.text, **fields, **given}


def sample_checkpoint(cfg: DictConfig, choice: PolicyChoice, note: Callable[[str], None]) -> list[list[Completion]]:
    """The completions of each prompt, as the config says. note: called with remarks on how they were made."""
    set_threads(cfg.threads)
    given = prompts_in(cfg.prompt)
    task = choice.make("task") if given is None else None
    prompts = [Prompt(text) for text in given or ()] if task is None else list(task.held_out_prompts()[: cfg.num_prompts])
    if not prompts:
        raise ConfigError('there is no prompt; give one: prompt="12+34="')
    sampler = configured_sampler(cfg, choice)
    policy = choice.load(torch_device(cfg.device))
    if given is not None and speaks_chat(cfg.chat, choice, policy):
        if any(isinstance(prompt.text, str) for prompt in prompts):
            note(f"a text is a user's message to {policy.name}, in its chat template; chat=false sends it as it is")
        prompts = [Prompt(as_message(prompt.text)) for prompt in prompts]
    foreign = choice.record is None and cfg.task is None and given is not None  # no task limits the length of answers
    longest = LONGEST if foreign else choice.nodes["task"].get("max_new_tokens", LONGEST)
    played = play(
        _Answers(name="prompts", max_new_tokens=longest) if task is None else task,
        policy,
        sampler,
        prompts,
        group_size=1 if cfg.greedy else cfg.num_samples,
        stream=Stream(cfg.seed, ("sample",)),
        # a prompt's completions do not depend on the others; prompts of an environment may differ only in their columns
        prompt_keys=[str(prompt.text) or str(dict(prompt.columns)) for prompt in prompts],
        greedy=cfg.greedy,
    )
    logprobs = logprobs_of(policy, played.rollout)
    return [
        [_completion(played, logprobs, prompt, row, column) for column in range(played.rollout.sequences.group_size)]
        for row, prompt in enumerate(prompts)
    ]


@dataclass(frozen=True, kw_only=True)
class _Answers(Task):
    """Prompts from the command line, whose answers get no reward."""

    offers: ClassVar[frozenset[str]] = frozenset()
    score: ClassVar[str] = ""


def prompts_in(prompt: Any) -> list[Text] | None:
    """The prompts of the config: one or a list of texts or of conversations, which may be JSON; None without any.

    A conversation is a list of messages, {"role": ..., "content": ...}. Raises ConfigError for anything else.
    """
    if prompt is None:
        return None
    values = OmegaConf.to_container(prompt) if OmegaConf.is_config(prompt) else prompt
    if isinstance(values, str) and values.startswith(("{", "[{", "[[{")):
        with contextlib.suppress(ValueError, RecursionError):  # a text may also begin like this
            values = json.loads(values)
    if not isinstance(values, list) or (values and all(isinstance(value, dict) for value in values)):
        values = [values]
    return [_prompt(value) for value in values]


def _prompt(value: Any) -> Text:
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    try:
        return as_text(value, place="prompt=", key="prompt")
    except DataError as error:
        raise ConfigError(f'{error}; in a shell: prompt=\'[{{"role": "user", "content": "Hi"}}]\'') from error


def speaks_chat(asked: bool | None, choice: PolicyChoice, policy: Policy) -> bool:
    """Whether to send a text as a user message: as asked, else if the policy has a chat template and a run's task chats."""
    if asked is not None:
        return asked
    if policy.tokenizer.chat_template is None:
        return False
    if choice.record is None:
        return True
    prompts = choice.make("task").held_out_prompts()
    return bool(prompts) and not isinstance(prompts[0].text, str)


def as_message(text: Text) -> Text:
    """A text wrapped as one message of a user; a conversation is returned as it is."""
    return ({"role": "user", "content": text},) if isinstance(text, str) else text


def configured_sampler(cfg: DictConfig, choice: PolicyChoice) -> Sampler:
    """The rollout's sampler in this process, with what the command line says of decoding."""
    stop = cfg.stop if cfg.stop is None or isinstance(cfg.stop, str) else tuple(str(text) for text in cfg.stop)
    given = {name: cfg[name] for name in _OF_ROLLOUT if name != "stop" and cfg[name] is not None}
    if stop is not None:
        given["stop"] = (stop,) if isinstance(stop, str) else stop
    sampler: Sampler = choice.make("rollout").in_process
    return replace(sampler, **given)


def logprobs_of(policy: Policy, rollout: Rollout) -> torch.Tensor:
    """[P, G] log-probabilities of the completions at temperature 1."""
    if rollout.temperature == 1.0:
        return rollout.sampling_logprobs.double().sum(dim=-1)
    with torch.no_grad():
        return policy.token_logprobs(rollout.sequences).double().sum(dim=-1).cpu()


def _completion(played: Played, logprobs: torch.Tensor, prompt: Prompt, row: int, column: int) -> Completion:
    talk = None if played.conversations is None else played.conversations[row][column]
    return Completion(
        prompt=prompt.text if talk is None else talk.opening,
        text=played.texts[row][column],
        logprob=float(logprobs[row, column]),
        num_tokens=int(played.rollout.sequences.learned_lengths[row, column]),
        finished=bool(played.rollout.finished[row, column]),
        reward=None if played.graded is None else played.graded[row][column].parts,
        turns=None if talk is None else talk.to_dict(),
    )
