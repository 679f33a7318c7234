import numpy as np
import torch

from rlx.rollout.decoding import decode
from rlx.rollout.stop import StopStrings


class Script:
    """A forward that writes down what it is asked, and makes each completion say a given line."""

    def __init__(self, lines):
        self.lines = lines  # token lists, one a completion
        self.sizes = []

    def start(self, prompts, *, group_size, max_new_tokens):
        self.rows = list(range(len(prompts) * group_size))
        self.position = 0
        return self._logits()

    def step(self, tokens):
        said = [self.lines[row][self.position] for row in self.rows]
        assert tokens.tolist() == said
        self.position += 1
        return self._logits()

    def keep(self, rows):
        self.rows = [self.rows[row] for row in rows.tolist()]

    def _logits(self):
        self.sizes.append(len(self.rows))
        wanted = torch.tensor([self.lines[row][self.position] for row in self.rows])
        return torch.nn.functional.one_hot(wanted, 10).float() * 100


def likeliest(logits, uniform):
    tokens = logits.argmax(-1)
    return tokens, torch.log_softmax(logits, -1).amax(-1)


LINES = [[3, 9, 5, 5], [4, 4, 4, 4], [8, 0, 0, 0], [5, 6, 7, 9]]  # 8 and 9 end a completion


def completed(limits, *, stop=None, lines=LINES):
    forward = Script(lines)
    prompts = [np.array([1]), np.array([2])]
    made = decode(
        forward,
        prompts,
        group_size=2,
        limits=np.array(limits),
        end_tokens=(9, 8),
        keys=None,
        choose=likeliest,
        stop=stop,
    )
    return made, forward


def test_a_completion_ends_with_any_of_its_end_tokens():
    made, _ = completed([4, 4])
    assert made.lengths.tolist() == [2, 4, 1, 4]
    assert made.finished.tolist() == [True, False, True, True]
    assert made.tokens.tolist() == [[3, 9, 0, 0], [4, 4, 4, 4], [8, 0, 0, 0], [5, 6, 7, 9]]
    assert (made.logprobs[made.tokens == 0] == 0).all()


def test_finished_rows_leave_the_batch():
    _, forward = completed([4, 4])
    assert forward.sizes == [4, 3, 2, 2]
    _, forward = completed([4, 4], lines=[[9] * 4] * 4)
    assert forward.sizes == [4]  # and nothing is computed for nobody


def test_each_prompt_has_its_own_limit():
    made, forward = completed([1, 3])
    assert made.lengths.tolist() == [1, 1, 1, 3]
    assert made.finished.tolist() == [False, False, True, False]
    assert forward.sizes == [4, 1, 1]


def test_an_end_at_the_limit_is_an_end():
    made, _ = completed([2, 4])
    assert made.lengths[0] == 2
    assert made.finished[0]


def test_a_stop_string_ends_a_completion_and_stays_in_it():
    stop = StopStrings(("67",), lambda tokens: "".join(str(int(token)) for token in tokens))
    made, _ = completed([4, 4], stop=stop)
    assert made.tokens[3].tolist() == [5, 6, 7, 0]
    assert made.lengths[3] == 3
    assert made.finished.tolist() == [True, False, True, True]
    assert made.logprobs[3, 2] == made.logprobs[3, 0]
