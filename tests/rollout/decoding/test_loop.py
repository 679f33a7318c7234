import numpy as np
import pytest
import torch
from scipy import stats

from rlx.rollout.decoding import loop
from rlx.rollout.decoding.loop import StopStrings, choose, decode, invert, truncated


class Script:
    """A forward that makes every row of a prompt say the next token of its line, the first row of two where it splits."""

    def __init__(self, lines, prompts):
        self.lines = dict(zip(prompts, lines, strict=True))
        self.sizes = []

    def start(self, prompts, *, max_rows, max_new_tokens, past=()):
        self.rows = [tuple(prompt.tolist()) for prompt in prompts]
        self.position = 0
        return self._logits()

    def step(self, parents, tokens):
        assert tokens.tolist() == [self.lines[self.rows[parent]][self.position] for parent in parents.tolist()]
        self.rows = [self.rows[parent] for parent in parents.tolist()]
        self.position += 1
        return self._logits()

    def _logits(self):
        self.sizes.append(len(self.rows))
        wanted = torch.tensor([self.lines[row][self.position] for row in self.rows])
        return torch.nn.functional.one_hot(wanted, 10).float() * 100


def likeliest(logits, rows, uniform):
    return logits.argmax(-1)[rows], torch.log_softmax(logits, -1).amax(-1)[rows]


LINES = [[3, 9, 5, 5], [4, 4, 4, 4], [8, 0, 0, 0], [5, 6, 7, 9]]  # 8 and 9 end a completion


def completed(limits, *, stop=None, lines=LINES):
    prompts = [np.array([number]) for number in range(4)]
    forward = Script(lines, [(number,) for number in range(4)])
    made = decode(
        forward,
        prompts,
        group_size=1,
        limits=np.array(limits),
        end_tokens=(9, 8),
        keys=None,
        choose=likeliest,
        stop=stop,
    )
    return made, forward


def test_a_completion_ends_with_any_of_its_end_tokens():
    made, _ = completed([4] * 4)
    assert made.lengths.tolist() == [2, 4, 1, 4]
    assert made.finished.tolist() == [True, False, True, True]
    assert made.tokens.tolist() == [[3, 9, 0, 0], [4, 4, 4, 4], [8, 0, 0, 0], [5, 6, 7, 9]]
    assert (made.logprobs[made.tokens == 0] == 0).all()


def test_finished_rows_leave_the_batch():
    _, forward = completed([4] * 4)
    assert forward.sizes == [4, 3, 2, 2]
    _, forward = completed([4] * 4, lines=[[9] * 4] * 4)
    assert forward.sizes == [4]  # and nothing is computed for nobody


def test_each_prompt_has_its_own_limit():
    made, forward = completed([1, 1, 1, 3])
    assert made.lengths.tolist() == [1, 1, 1, 3]
    assert made.finished.tolist() == [False, False, True, False]
    assert forward.sizes == [4, 1, 1]


def test_an_end_at_the_limit_is_an_end():
    made, _ = completed([2, 4, 4, 4])
    assert made.lengths[0] == 2
    assert made.finished[0]


def test_a_stop_string_ends_a_completion_and_stays_in_it():
    stop = StopStrings(("67",), lambda tokens: "".join(str(int(token)) for token in tokens))
    made, _ = completed([4] * 4, stop=stop)
    assert made.tokens[3].tolist() == [5, 6, 7, 0]
    assert made.lengths[3] == 3
    assert made.finished.tolist() == [True, False, True, True]
    assert made.logprobs[3, 2] == made.logprobs[3, 0]


def test_completions_are_one_row_until_they_part():
    prompts = [np.array([1]), np.array([2]), np.array([1])]  # the first and the last are one
    said = np.array([[3, 4, 5], [3, 7, 5], [1, 1, 1], [2, 2, 2], [3, 4, 5], [3, 4, 5]])
    asked = []

    class Recorder(Script):
        def step(self, parents, tokens):
            asked.append((parents.tolist(), tokens.tolist()))
            return torch.zeros(len(parents), 10)

    turn = iter(range(3))

    def scripted(logits, rows, uniform):
        position = next(turn)
        return torch.from_numpy(said[:, position]), torch.zeros(6)

    forward = Recorder([[0] * 3] * 2, [(1,), (2,)])
    made = decode(forward, prompts, group_size=2, limits=np.array([3] * 3), end_tokens=(), keys=None, choose=scripted, stop=None)
    assert np.array_equal(made.tokens, said)
    assert forward.sizes == [2]
    assert asked == [([0, 1, 1], [3, 1, 2]), ([0, 1, 2, 0], [4, 1, 2, 7])]


ROW = torch.tensor([0])


def test_inversion_takes_the_first_token_past_the_number():
    probabilities = torch.tensor([[0.25, 0.0, 0.5, 0.25]])
    expected = {0.0: 0, 0.2499: 0, 0.25: 2, 0.7499: 2, 0.75: 3, 1 - 2**-53: 3}
    for uniform, token in expected.items():
        assert invert(probabilities, ROW, torch.tensor([uniform], dtype=torch.float64)).item() == token


def test_a_token_without_probability_is_never_chosen():
    probabilities = torch.tensor([[0.0, 0.3, 0.0, 1e-30, 0.6, 0.0]])
    uniform = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert invert(probabilities, torch.zeros(3, dtype=torch.long), uniform).tolist() == [1, 4, 4]


def test_draws_find_their_rows():
    probabilities = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5]])
    rows = torch.tensor([2, 0, 1, 2, 2, 0])
    uniform = torch.tensor([0.6, 0.5, 0.5, 0.4, 0.9, 0.0], dtype=torch.float64)
    assert invert(probabilities, rows, uniform).tolist() == [2, 0, 1, 1, 2, 0]


def test_unlikely_tokens_get_their_share():
    # in float32 a running sum near 1 cannot tell shares below 6e-8 apart
    probabilities = torch.tensor([[1 - 1e-6] + [1e-9] * 1000])
    first = float(probabilities[0, 0])
    total = float(probabilities.double().sum())
    for token in range(1, 1001, 37):
        uniform = (first + (token - 0.5) * 1e-9) / total
        assert invert(probabilities, ROW, torch.tensor([uniform], dtype=torch.float64)).item() == token


def test_choices_follow_the_distribution():
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0, 0.5])
    uniform = torch.from_numpy(np.random.default_rng(0).random(20_000))
    tokens, logprobs = choose(logits[None], torch.zeros(20_000, dtype=torch.long), uniform, temperature=0.7)
    exact = torch.log_softmax(logits.double() / 0.7, dim=-1)
    counts = np.bincount(tokens.numpy(), minlength=5)
    assert stats.chisquare(counts, 20_000 * exact.exp().numpy()).pvalue > 1e-3
    torch.testing.assert_close(logprobs.double(), exact[tokens], atol=1e-6, rtol=0)


def test_the_likeliest_token_without_a_number():
    logits = torch.tensor([[0.1, 0.3, 0.2], [5.0, -1.0, 4.0]])
    tokens, logprobs = choose(logits, torch.tensor([1, 0, 1]), None, temperature=2.0)
    assert tokens.tolist() == [0, 1, 0]
    torch.testing.assert_close(logprobs, torch.log_softmax(logits / 2, -1).amax(-1)[[1, 0, 1]])


PROBABILITIES = torch.tensor([[0.05, 0.4, 0.1, 0.25, 0.2]])


@pytest.mark.parametrize(
    ("limits", "support"),
    [
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 9}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.39}, {1}),
        ({"top_p": 0.41}, {1, 3}),
        ({"top_p": 1e-9}, {1}),
        ({"top_p": 1.0}, {0, 1, 2, 3, 4}),
        ({"min_p": 0.5}, {1, 3, 4}),
        ({"min_p": 1.0}, {1}),
        ({"top_k": 3, "top_p": 0.45}, {1}),  # of what top_k left: 0.45 <= 0.4 / 0.85
        ({"top_k": 4, "min_p": 0.3}, {1, 3, 4}),
    ],
)
def test_truncation_keeps_the_likely_tokens(limits, support):
    settings = {"top_k": None, "top_p": None, "min_p": None, **limits}
    kept = truncated(PROBABILITIES, **settings)
    assert set(torch.nonzero(kept[0]).flatten().tolist()) == support
    assert torch.equal(kept[0, sorted(support)], PROBABILITIES[0, sorted(support)])
    uniform = torch.from_numpy(np.random.default_rng(1).random(2000))
    tokens, logprobs = choose(PROBABILITIES.log(), torch.zeros(2000, dtype=torch.long), uniform, temperature=1.0, **settings)
    assert set(tokens.tolist()) == support
    torch.testing.assert_close(logprobs, PROBABILITIES.log()[0, tokens], atol=1e-6, rtol=0)  # those before truncation


def test_of_equally_likely_tokens_top_k_keeps_the_first():
    kept = truncated(torch.full((1, 6), 1 / 6), top_k=2, top_p=None, min_p=None)
    assert torch.nonzero(kept[0]).flatten().tolist() == [0, 1]


@pytest.mark.parametrize("greedy", [False, True])
def test_pieces_of_a_large_batch_change_nothing(monkeypatch, greedy):
    logits = torch.randn(11, 7, generator=torch.Generator().manual_seed(0))
    rows = torch.from_numpy(np.random.default_rng(1).integers(0, 11, size=30))
    uniform = None if greedy else torch.from_numpy(np.random.default_rng(0).random(30))
    whole = choose(logits, rows, uniform, temperature=1.3, top_k=5)
    monkeypatch.setattr(loop, "_ELEMENTS_AT_ONCE", 20)
    pieces = choose(logits, rows, uniform, temperature=1.3, top_k=5)
    assert torch.equal(whole[0], pieces[0])
    assert torch.equal(whole[1], pieces[1])
