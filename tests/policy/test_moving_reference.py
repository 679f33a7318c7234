from dataclasses import replace

import pytest
import torch

import rlx
from rlx.algorithm.mixture import MixtureTerm
from rlx.check.variant import variants
from rlx.errors import ConfigError
from rlx.loss.preference.mixture import LossPart
from rlx.loss.preference.modifier import ReferenceFree
from rlx.policy.reference import MovingReference
from tests.loss.catalogue import load


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


MOVING = MovingReference(every_steps=3, policy_share=0.5)


def test_it_is_a_modifier_of_losses_with_a_reference_and_of_a_mixture_as_a_whole():
    assert load("dpo").moving_reference is None
    assert load("tr_dpo").moving_reference == MovingReference(every_steps=512, policy_share=0.6)
    assert replace(load("mixture"), modifiers={"reference": MOVING}).moving_reference is MOVING


@pytest.mark.parametrize(
    ("name", "modifiers", "message"),
    [
        ("simpo", {"moving": MOVING}, "simpo reads no reference, so modifiers.moving would change nothing"),
        ("dpo", {"free": ReferenceFree(), "moving": MOVING}, "dpo reads no reference, so modifiers.moving"),
        ("dpo", {"one": MOVING, "two": MOVING}, "modifiers.one and modifiers.two of dpo both move the reference"),
    ],
)
def test_where_there_is_no_reference_or_another_moves_it_it_is_refused(name, modifiers, message):
    with pytest.raises(ConfigError, match=message):
        replace(load(name), modifiers=modifiers)


def test_a_part_of_a_mixture_cannot_move_the_reference_of_all():
    part = LossPart(coefficient=1.0, loss=replace(load("dpo"), modifiers={"moving": MOVING}))
    with pytest.raises(ConfigError, match=r"parts.dpo.loss of a mixture moves the reference, which all parts share"):
        replace(load("mixture"), parts={"dpo": part})


def test_the_laws_of_a_batch_do_not_try_what_the_loop_reads():
    names = {name for name, _ in variants(replace(rlx.load("algorithm", "dpo"), loss=load("tr_dpo")))}
    assert "loss.beta" in names
    assert not [name for name in names if "reference" in name]


def test_an_algorithm_has_the_moving_reference_of_its_loss_and_a_mixture_that_of_its_terms():
    first = replace(rlx.load("algorithm", "dpo"), loss=load("tr_dpo"))
    other = replace(first, loss=replace(load("dpo"), modifiers={"moving": MOVING}))
    plain = rlx.load("algorithm", "custom_grpo")
    assert first.moving_reference == load("tr_dpo").moving_reference
    assert plain.moving_reference is None
    mixture = rlx.load("algorithm", "mixture")
    terms = {"one": MixtureTerm(algorithm=first, weight=1.0), "two": MixtureTerm(algorithm=plain, weight=1.0)}
    assert replace(mixture, terms=terms).moving_reference == first.moving_reference
    with pytest.raises(ConfigError, match="terms one and three move the reference in different ways"):
        replace(mixture, terms={**terms, "three": MixtureTerm(algorithm=other, weight=1.0)})
    silent = MixtureTerm(algorithm=other, weight=0.0)
    assert replace(mixture, terms={**terms, "three": silent}).moving_reference == first.moving_reference
