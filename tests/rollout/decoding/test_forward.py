import numpy as np
import pytest
import torch

from rlx.rollout.decoding.forward import CachedForward, PlainForward
from rlx.rollout.decoding.past import padded
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
    splits = [[0, 0, 1, 0, 1], [0, 1, 2, 3, 4], [0, 3, 2, 1], [2, 1], [0, 1]]
    for make in ways.values():
        generator = np.random.default_rng(0)
        sequences = [prompt.tolist() for prompt in prompts]
        forward = make()
        logits = forward.start(prompts, max_rows=5, max_new_tokens=6)
        for parents in [*splits, []]:
            for row, sequence in enumerate(sequences):
                exact = exact_logprobs(model, sequence)[-1]
                assert (torch.log_softmax(logits[row].double(), -1) - exact).abs().max() < 3e-5
            if parents:
                tokens = generator.integers(0, VOCABULARY, size=len(parents))
                sequences = [[*sequences[parent], int(token)] for parent, token in zip(parents, tokens, strict=True)]
                logits = forward.step(torch.tensor(parents), torch.from_numpy(tokens))


def test_padding_is_on_the_side_asked_for():
    tokens, mask = padded([np.array([5, 6, 7]), np.array([8])], left=True)
    assert tokens.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert padded([np.array([5, 6]), np.array([8])], left=False)[0].tolist() == [[5, 6], [8, 0]]
