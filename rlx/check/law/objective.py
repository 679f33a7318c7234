"""The law of the objective: in expectation over all samples, an update improves the algorithm's objective."""

from __future__ import annotations

import torch
from torch import Tensor

from rlx.algorithm.base import AlgorithmType, Need
from rlx.check.batch import against_rewards, parts_of
from rlx.check.exact.expectation import Estimate, Objectives, alone, cosine_of_vectors, expected_gradient, objectives
from rlx.check.exact.world import World, exact_laboratory
from rlx.check.finding import Finding, broken, passed, skipped
from rlx.check.subject import Subject

VOCABULARY, LENGTH = 3, 2  # 7 completions, 49 groups of two
AGAINST = -0.05  # least cosine with the gradient of the expected reward
AWRY = 0.3  # least cosine with the gradient of the KL
NOTHING = 1e-9  # a shorter gradient counts as 0
KINDS = {AlgorithmType.POLICY_GRADIENT, AlgorithmType.REINFORCEMENT_LEARNING}
MEND = (
    "k2 = r ** 2 / 2 has the right gradient on policy, k1 and k3 with the importance ratio before them (kl_gradient="
    "importance_weighted), with r = policy - reference, both of token_logprobs(batch.sequences, temperature=batch.temperature)"
)


def objective(subject: Subject) -> Finding:
    """Over all completions of a small vocabulary, an update raises the expected reward; a penalty pulls to the reference."""
    if Need.REWARDS not in subject.needs or subject.reads_pairs or subject.algorithm.kind not in KINDS:
        return skipped("no policy gradient of sampled completions")
    if subject.goes_past or subject.warm_up:
        return skipped("the loss reads the model itself, or waits for a buffer to fill")
    lone = alone(subject.algorithm)
    if lone is None:
        return skipped("its settings admit no small group")
    subject = subject.with_algorithm(lone)
    world = World.of(subject.policy, vocabulary=VOCABULARY, length=LENGTH)
    try:
        rewarded, aims = _enumerated(subject, world)
        penalty, _ = _enumerated(subject, world, rewarded=False)
    except ValueError as error:
        return skipped(f"{error}, and one is enumerated")
    agreement = cosine_of_vectors(penalty.mean - rewarded.mean, aims.reward)
    if agreement < AGAINST:
        return broken(
            f"averaged over all {len(world.completions)} completions of a small vocabulary, an update goes against the gradient "
            f"of the expected reward (cosine {agreement:+.2f}, it must be positive)",
            number=f"{agreement:+.2f}",
            where="draw" if any(map(against_rewards, parts_of(subject.first_update(subject.stand_in())))) else "compute_loss",
            example=f"{rewarded.groups} groups, each weighed by its probability",
            mend="the surrogate enters the loss with a minus, and what is subtracted from a reward carries no gradient",
        )
    if Need.REFERENCE not in subject.needs:
        return _is_noise(subject, world) or passed(f"cosine {agreement:.2f}")
    return _follows(subject, world, penalty, aims) or passed(
        f"cosine {agreement:.2f} with the reward's gradient, {cosine_of_vectors(penalty.mean, aims.kl):.2f} with the KL's"
    )


def _is_noise(subject: Subject, world: World) -> Finding | None:
    """Return a finding if advantages of 0 leave a gradient whose mean over all completions is 0, so that nothing is learned."""
    laboratory, batch = subject.stand_in_batch(spread=0.0)
    advantages = getattr(batch, "advantages", None)
    if not isinstance(advantages, Tensor) or len(batch) == 0:
        return None
    shown = advantages if bool(advantages.any()) else torch.ones_like(advantages)  # equal rewards would show nothing
    nothing, once, twice = (
        subject.gradient(laboratory, batch.with_values(advantages=times * shown))[0] for times in (0.0, 1.0, 2.0)
    )
    leaf = laboratory.policy.leaves.get("token_logprobs")
    if leaf is None or not bool(nothing[: len(leaf)].abs().gt(NOTHING).any()) or bool(nothing[len(leaf) :].any()):
        return None
    if bool((twice - 2 * once + nothing).abs().gt(NOTHING).any()):  # advantages weight it, by their exponential, say
        return None
    for shift in (-0.1, 0.1):
        sampled = torch.where(batch.completion_mask, batch.sampling_logprobs + shift, 0.0)
        moved = batch.with_values(advantages=0 * advantages, sampling_logprobs=sampled)
        if bool((subject.gradient(laboratory, moved)[0] - nothing).abs().gt(NOTHING).any()):
            return None  # it is a regulariser to the sampler
    exact = exact_laboratory(subject, world, on_policy=True, rewarded=True)
    left = expected_gradient(subject, exact, ordered=True, without_advantages=True)
    share = float(left.mean.norm()) / left.size if left.size > NOTHING else 1.0
    if share >= AWRY:
        return None
    return broken(
        f"where all advantages are 0 a gradient is left, and averaged over all {len(world.completions)} completions of a small "
        f"vocabulary {share:.2f} of its length remains: what is added to the surrogate teaches nothing on average",
        number=f"{share:.2f}",
        where="compute_loss",
        example=f"{left.groups} groups, each weighed by its probability",
        mend="the log-probabilities of sampled tokens alone, as an entropy or a KL, have a gradient of 0 on average: read the "
        "entropy over the vocabulary (requires entropy), or put the estimate into the reward",
    )


def _enumerated(subject: Subject, world: World, *, on_policy: bool = True, rewarded: bool = True) -> tuple[Estimate, Objectives]:
    exact = exact_laboratory(subject, world, on_policy=on_policy, rewarded=rewarded)
    return expected_gradient(subject, exact, ordered=True), objectives(exact, beta=0.0)


def _follows(subject: Subject, world: World, penalty: Estimate, aims: Objectives) -> Finding | None:
    """Return a finding if, without rewards, a gradient remains that is not that of a KL to the reference."""
    if penalty.size <= NOTHING:
        off_policy, _ = _enumerated(subject, world, on_policy=False, rewarded=False)
        if off_policy.size <= NOTHING:
            return None
        return broken(
            "where nothing is rewarded and the policy is its sampler, away from the reference, no gradient is left; with another "
            f"sampler one is (mean length {off_policy.size:.1e}): the penalty pulls to the sampler, not to the reference",
            number=f"{penalty.size:.0e}",
            where="compute_loss",
            example=f"{penalty.groups} groups of {len(world.completions)} completions, all enumerated",
            mend=MEND,
        )
    share = float(penalty.mean.norm()) / penalty.size
    agreement = max(cosine_of_vectors(penalty.mean, aims.kl), cosine_of_vectors(penalty.mean, aims.kl_at_states))
    if agreement >= AWRY:
        return None
    if agreement > -2 * AWRY or share < AWRY:
        wrong = (
            f"where nothing is rewarded, the gradient of the penalty is not that of a KL to the reference on average (cosine "
            f"{agreement:+.2f}; its mean has {share:.2f} of the length of single ones): what is left of it is noise"
        )
    else:
        wrong = (
            f"where nothing is rewarded, an update goes away from the reference on average (cosine {agreement:+.2f} with the KL)"
        )
    return broken(
        wrong,
        number=f"{agreement:+.2f}",
        where="draw or compute_loss",
        example=f"{penalty.groups} groups of {len(world.completions)} completions, all enumerated",
        mend=MEND,
    )
