import numpy as np
import pytest
import torch

from rlx.rollout.forward import CachedForward, PlainForward, padded
from tests.rollout.stand_in import VOCABULARY, exact_logprobs, model_of, prompts_of


def forwards(architecture):
    model = model_of(architecture)
    ways = {"plain": lambda: PlainForward(model), "cached": lambda: CachedForward(model, prepared_mask=False)}
    if architecture not in ("mistral", "bloom"):
        ways["prepared"] = lambda: CachedForward(model, prepared_mask=True)
    return model, ways


@torch.no_grad()
@pytest.mark.parametrize("lengths", [(4, 4), (3, 9, 1)])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "mistral", "bloom"])
def test_every_way_gives_the_logits_of_each_sequence_alone(architecture, lengths):
    model, ways = forwards(architecture)
    prompts = prompts_of(*lengths)
    group = 2
    rows = [prompt.tolist() for prompt in prompts for _ in range(group)]
    for make in ways.values():
        sequences = [list(row) for row in rows]
        generator = np.random.default_rng(0)
        forward = make()
        logits = forward.start(prompts, group_size=group, max_new_tokens=6)
        for step in range(6):
            for row, sequence in enumerate(sequences):
                exact = exact_logprobs(model, sequence)[-1]
                assert (torch.log_softmax(logits[row].double(), -1) - exact).abs().max() < 1e-5
            if step == 5:
                break
            if step == 2:
                keep = torch.tensor([0, 3, 2])
                forward.keep(keep)
                sequences = [sequences[row] for row in keep.tolist()]
            following = generator.integers(0, VOCABULARY, size=len(sequences))
            for sequence, token in zip(sequences, following, strict=True):
                sequence.append(int(token))
            logits = forward.step(torch.from_numpy(following))


@torch.no_grad()
def test_a_prompt_is_read_once_for_all_its_completions():
    model = model_of("llama")
    seen = []
    handle = model.model.embed_tokens.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].numel()))
    forward = CachedForward(model, prepared_mask=True)
    forward.start(prompts_of(5, 5), group_size=8, max_new_tokens=3)
    forward.step(torch.zeros(16, dtype=torch.long))
    handle.remove()
    assert seen == [10, 16]


def test_padding_is_on_the_side_asked_for():
    tokens, mask = padded([np.array([5, 6, 7]), np.array([8])], left=True)
    assert tokens.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert padded([np.array([5, 6]), np.array([8])], left=False)[0].tolist() == [[5, 6], [8, 0]]
