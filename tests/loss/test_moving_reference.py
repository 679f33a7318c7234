import pytest
import torch

from rlx.errors import ConfigError
from rlx.loss.moving_reference import MovingReference


def test_it_is_due_after_every_so_many_steps_and_not_before_the_first():
    moving = MovingReference(every_steps=4, policy_share=0.5)
    assert [step for step in range(10) if moving.due(step)] == [4, 8]


def test_the_reference_takes_its_share_of_the_policy_and_no_gradient():
    reference, policy = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0], requires_grad=True)
    moved = MovingReference(every_steps=1, policy_share=0.25).mix(reference, policy)
    assert moved.tolist() == [1.5, 1.5]
    assert not moved.requires_grad
    assert torch.equal(MovingReference(every_steps=1, policy_share=1).mix(reference, policy), policy)


def test_shares_and_steps_out_of_range_are_refused():
    for wrong in ({"every_steps": 0, "policy_share": 0.5}, {"every_steps": 1, "policy_share": 0.0}):
        with pytest.raises(ConfigError, match="of MovingReference is"):
            MovingReference(**wrong)
