import numpy as np
import torch

from rlx.rollout.decoding.loop import StopStrings, decode


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
