"""rollout.ahead=1: the draw of a step comes from the weights of the step before, in process and from a server."""

import copy
import hashlib
import shlex
import threading
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from rlx.config.compose import compose
from rlx.errors import ConfigError, TrainingError
from rlx.experiment import assemble
from rlx.rollout.sampler import Sampler
from rlx.training.ahead import DrawAhead, Drawn, trained_copy
from rlx.training.run import build_loop
from tests.rollout.fake_vllm import faking
from tests.training.conftest import metrics, reproducible

GRPO = shlex.split(
    "algorithm=custom_grpo algorithm.prompts_per_step=4 algorithm.group_size=4 rollout.max_new_tokens=4 "
    "num_steps=5 threads=1 logger=[] evaluation.num_prompts=8 evaluation.num_pairs=8 optimizer.lr=0.001"
)
SAME = 5e-5  # nats: a float32 logit of 30 is exact to 4e-6, and sampling adds up in another order than learning
AHEAD = "rollout.ahead=1"
REPLAY = """
from dataclasses import dataclass
from rlx.algorithm import Algorithm, AlgorithmType, LossOutput, Need, Term
from rlx.rollout.draw import roll_out
from rlx.rollout.rollouts import RolloutBatch


@dataclass(frozen=True)
class Replay(Algorithm):
    kind = AlgorithmType.POLICY_GRADIENT
    needs = frozenset({Need.REWARDS})

    def draw(self, lab):
        fresh = roll_out(lab, prompts_per_step=4, group_size=4, resample_attempts=0, filter_truncated=False)
        buffer = lab.buffer(6)
        batch = RolloutBatch.join([fresh, buffer.sample(2)]) if len(buffer) else fresh
        buffer.add(fresh)
        mask = batch.loss_mask
        return batch.with_values(advantages=batch.rewards - 0.5, weights=mask / mask.sum(), metrics=fresh.metrics)

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_statistics(batch.sequences, temperature=batch.temperature)
        ratio = (ours.token_logprobs - batch.sampling_logprobs).exp()
        return LossOutput({"policy": Term(-ratio * batch.advantages[..., None], batch.weights)})
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))


def digest(policy):
    tensors = list(policy.model.state_dict().values())
    return hashlib.sha256(b"".join(tensor.cpu().numpy().tobytes() for tensor in tensors)).hexdigest()


class Witness:
    """An algorithm that notes which weights its draws are given, and what its loss reads."""

    def __init__(self, algorithm):
        self.own, self.drawn, self.learned = algorithm, {}, []
        self.on_draw = self.on_loss = lambda *_: None

    def __getattr__(self, name):
        return getattr(self.own, name)

    def draw(self, lab):
        self.drawn[lab.step] = digest(lab.policy)
        self.on_draw(lab)
        return self.own.draw(lab)

    def compute_loss(self, policy, reference, batch):
        self.on_loss(policy, batch)
        self.learned.append(batch)
        return self.own.compute_loss(policy, reference, batch)


def loop_of(*overrides):
    cfg = compose("train", [*GRPO, *overrides])
    loop = build_loop(cfg, assemble(cfg), None, None, None)
    loop.algorithm = Witness(loop.algorithm)
    return loop


def stepped(loop, steps=4):
    """The weights before each step, and the lines of the steps."""
    before, lines = [], []
    for step in range(steps):
        before.append(digest(loop.policy))
        lines.append(loop._step(step))
        loop.progress.step += 1
    return before, lines


@pytest.mark.parametrize(
    "overrides", [(), ("policy/adapter=lora",), ("algorithm.minibatches=2", "algorithm.updates_per_batch=2")], ids=str
)
def test_the_draw_of_a_step_comes_from_the_weights_of_the_step_before(overrides):
    loop = loop_of(AHEAD, *overrides)
    before, _ = stepped(loop)
    assert len(set(before)) == 4
    assert [loop.algorithm.drawn[step] for step in range(5)] == [before[0], *before]


def test_without_it_a_draw_comes_from_the_weights_of_its_step():
    loop = loop_of()
    before, lines = stepped(loop)
    assert [loop.algorithm.drawn[step] for step in range(4)] == before
    assert stepped(loop_of(AHEAD), 1)[1] == lines[:1]


def test_sampling_log_probabilities_are_those_of_the_weights_that_sampled():
    loop = loop_of(AHEAD)
    seen = []

    def note(policy, batch):
        seen.append((policy.frozen_copy(), batch))

    loop.algorithm.on_loss = note
    stepped(loop)
    for (older, _), (newer, batch) in pairwise(seen):
        then, now = (policy.token_logprobs(batch.sequences).detach() for policy in (older, newer))
        assert (batch.sampling_logprobs - then).abs().max() < SAME
        assert (batch.sampling_logprobs - now).abs().max() > 1e-3


def test_proximal_log_probabilities_are_those_of_the_policy_before_its_updates():
    loop = loop_of(AHEAD, "loss=clipped_truncated_correction", "algorithm.updates_per_batch=2")
    first = {}

    def note(policy, batch):
        with torch.no_grad():
            now = policy.token_logprobs(batch.sequences)
        if loop.progress.step not in first:
            first[loop.progress.step] = ((batch.proximal_logprobs - now).abs().max(), (batch.sampling_logprobs - now).abs().max())

    loop.algorithm.on_loss = note
    stepped(loop)
    assert all(proximal < SAME for proximal, _ in first.values())
    assert all(sampling > 1e-3 for step, (_, sampling) in first.items() if step > 0)


CASES = {
    "grpo": (),
    "adapter": ("policy/adapter=lora",),
    "critic": ("algorithm/advantage=gae", "algorithm.value_loss_weight=0.5"),
    "online_dpo": ("algorithm=online_dpo",),
    "replay": ("algorithm=my_replay.Replay",),
}


@pytest.mark.whole
@pytest.mark.parametrize("case", CASES)
def test_a_run_is_repeated_and_resumed_to_the_last_bit(case, rlx_run, tmp_path):
    (tmp_path / "my_replay.py").write_text(REPLAY)
    given = GRPO[3:] if case == "replay" else GRPO  # it has its numbers in itself
    words = [*given, *CASES[case], AHEAD, "checkpoint.every=1", "checkpoint.keep_best=false", "eval_every=2"]
    code, whole, said = rlx_run(*words, small=False)
    assert code == 0, said
    _, part, _ = rlx_run(*words, "num_steps=3", small=False)
    assert rlx_run(f"resume={part}", "num_steps=5", *CASES[case][:1] * (case == "replay"), small=False)[0] == 0
    steps = {line["step"]: line for line in reproducible(whole)}
    resumed = {line["step"]: line for line in reproducible(part)}
    assert resumed.keys() == steps.keys()
    for step in (1, 2, 4, 5):  # step 3 was evaluated, as the last one then; the first two are those of a repetition
        assert resumed[step] == steps[step]
    off_policy = [line["train/ratio_mean"] for line in metrics(whole) if "train/ratio_mean" in line]
    assert all(abs(ratio - 1) > 1e-6 for ratio in off_policy[1:])


@pytest.mark.whole
def test_a_server_samples_the_next_draw_while_this_one_is_learned_from(tmp_path):
    cfg = compose("train", GRPO)
    assemble(cfg).policy.model.save_pretrained(tmp_path / "base")
    with faking(tmp_path / "base") as server:
        loop = loop_of("rollout=server", f"rollout.url={server.url}", "rollout.sync=disk", f"rollout.sync_path={tmp_path}", AHEAD)
        answer, gate, asked, learning, met = server.answer, *(threading.Event() for _ in range(3)), []

        def answer_while_learning(path, body):
            if gate.is_set() and path == "/v1/completions":
                asked.set()
                met.append(learning.wait(5))
            return answer(path, body)

        def learn_while_answered(*_):
            if loop.progress.step == 0:
                learning.set()
                met.append(asked.wait(5))

        server.answer, loop.algorithm.on_loss = answer_while_learning, learn_while_answered
        loop.algorithm.on_draw = lambda lab: gate.set() if lab.step == 1 else None
        with loop.sampler.running(tmp_path, loop.policy):
            before, lines = stepped(loop)
    assert len(met) > 1
    assert all(met)  # else the server was asked before or after the update
    assert [loop.algorithm.drawn[step] for step in range(5)] == [before[0], *before]
    assert [line["train/weights_version"] for line in lines] == [0, 0, 1, 2]
    assert all(line["train/sampling_gap_largest"] < 1e-4 for line in lines)


def test_what_a_draw_in_a_thread_raises_is_raised_in_the_step(tmp_path):
    loop = loop_of(AHEAD)
    loop.ahead.overlaps = True

    def fail(lab):
        if lab.step == 2:
            raise TrainingError("the judge has gone home")

    loop.algorithm.on_draw = fail
    loop._step(0)
    with pytest.raises(TrainingError, match="gone home"):
        loop._step(1)


def test_a_draw_in_a_thread_is_the_same_to_the_last_bit():
    lines = []
    for overlaps in (False, True):
        loop = loop_of(AHEAD, "loss.beta=0.1", "policy/adapter=lora")
        loop.ahead.overlaps = overlaps
        lines.append(stepped(loop)[1])
    assert lines[0] == lines[1]


def test_a_copy_shares_what_is_not_trained():
    policy = assemble(compose("train", [*GRPO, "policy/adapter=lora"])).policy
    twin, weights = trained_copy(policy)
    own = {tensor.data_ptr() for tensor in policy.tensors()}
    apart = [tensor for tensor in twin.tensors() if tensor.data_ptr() not in own]
    assert sum(tensor.numel() for tensor in apart) == sum(parameter.numel() for parameter in policy.parameters())
    assert {id(tensor) for tensor in weights} == {id(tensor) for tensor in apart}


REFUSED = {
    "pairs alone": (["algorithm=custom_dpo"], "CustomDpo does not learn from rollouts"),
    "two steps": ([*GRPO, "rollout.ahead=2"], "ahead .* is 2, but must be .* at most 1"),
    "a moving reference": (["algorithm=online_dpo", "loss=tr_dpo"], "a reference that moves .*is refused"),
    "sleep": ([*GRPO, "rollout=vllm", "rollout.sleeps=true"], "rollout.sleeps=false"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_drawn_ahead_is_refused(case):
    words, said = REFUSED[case]
    cfg = compose("train", [AHEAD, *words])
    with pytest.raises(ConfigError, match=said):
        build_loop(cfg, assemble(cfg), None, None, None)


def test_several_ranks_are_refused_by_name():
    sampler = assemble(compose("train", [*GRPO, AHEAD])).sampler
    assert "rollout.ahead=1" in sampler.needs_one_process
    assert replace(sampler, ahead=0).needs_one_process == ""
    assert isinstance(sampler, Sampler)


def test_a_draw_is_taken_once():
    ahead = copy.copy(loop_of(AHEAD).ahead)
    ahead.begin(lambda: Drawn("batch", {}))
    assert ahead.take() == Drawn("batch", {})
    assert ahead.take() is None
    assert isinstance(ahead, DrawAhead)
