"""Tests an algorithm for bugs, one law per line, with what is wrong and how to fix it; without one, checks the installation."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig, OmegaConf

from rlx.config.groups import RUN_GROUPS
from rlx.config.schema import at_least
from rlx.errors import ConfigError, NonFiniteError, RlxError

if TYPE_CHECKING:
    from rlx.check.subject import Subject
    from rlx.config.compose import Composed


@dataclass
class CheckConfig:
    """The keys of rlx check."""

    algorithm: Any = None
    loss: Any = None
    task: Any = MISSING
    policy: Any = MISSING
    optimizer: Any = MISSING
    rollout: Any = MISSING
    laws: Any = None
    same_as: str | None = None
    exact: bool = MISSING
    seed: int = at_least(0)
    threads: int | None = at_least(1, optional=True)
    json: bool = MISSING


SCHEMA = CheckConfig


def narrow(composed: Composed) -> Composed:
    """Decide what to check: the algorithm, the loss in the simplest algorithm of its kind, or with neither the installation."""
    named = composed.named("algorithm", "loss")
    if not named and (others := composed.named(*RUN_GROUPS, "same_as", "exact")):
        words = shlex.join(composed.command[2:])
        raise ConfigError(
            f"{others[0]} is given, but neither an algorithm nor a loss that it could be checked with; rlx check alone looks at "
            f"the installation; name one: rlx check algorithm=custom_dpo {words}"
        )
    left = {"algorithm"} if named == ["loss"] else set() if named else set(RUN_GROUPS)
    gone = [group for group in ("task", "policy", "optimizer", "rollout") if group not in composed.config]
    if named and gone:
        raise ConfigError(f"rlx check needs a {gone[0]}; leave out ~{gone[0]}, or choose one: {gone[0]}=NAME")
    kept = OmegaConf.masked_copy(composed.config, [str(key) for key in composed.config if key not in left])
    return replace(composed, config=kept)


def run(composed: Composed) -> int:
    """0 if every law holds, 1 if one is broken."""
    named = composed.named("algorithm", "loss")
    if not named:
        if composed.config.laws is not None:
            raise ConfigError(
                f"laws={composed.config.laws} of what? name an algorithm or a loss: rlx check algorithm=custom_dpo laws=[split]"
            )
        return doctor(composed.config)
    subject = subject_of(composed.config, own_task=bool(composed.named("task")))
    if composed.config.same_as is not None:
        return compare_functions(composed, subject)
    name = " ".join(f"{group}={composed.choices[group]}" for group in named)
    return exactly(composed.config, subject, name) if composed.config.exact else report(composed.config, subject, name)


def subject_of(cfg: DictConfig, *, own_task: bool) -> Subject:
    """The subject of the laws. own_task: whether the task was chosen; it must then offer everything that a run needs."""
    import transformers

    from rlx.algorithm.base import Need
    from rlx.check.subject import Subject
    from rlx.experiment import make, require_match, require_scores, set_threads
    from rlx.garbage import search_as_usual
    from rlx.training.gradients import AccumulatedGradients

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    set_threads(cfg.threads or 1)
    task = make(cfg.task, key="task")
    algorithm = algorithm_in(cfg)
    require_match(algorithm, task)
    if own_task:
        require_scores(algorithm, task)
    optimizer, sampler = make(cfg.optimizer, key="optimizer"), make(cfg.rollout, key="rollout")
    policy = make(cfg.policy, key="policy")
    if Need.VALUES in getattr(algorithm, "active_needs", algorithm.needs) and policy.value_head is None:
        policy.add_value_head()
    search_as_usual()
    return Subject(algorithm, task, policy, sampler, AccumulatedGradients, optimizer, seed=cfg.seed)


def plainest_with(loss: Any) -> Any:
    """The simplest algorithm that reads a loss."""
    import rlx
    from rlx.loss.policy_gradient.base import PolicyGradientLoss
    from rlx.loss.preference.base import PreferenceLoss

    if isinstance(loss, PreferenceLoss):
        return replace(rlx.load("algorithm", "dpo"), loss=loss)
    if isinstance(loss, PolicyGradientLoss):
        return replace(rlx.load("algorithm", "custom_grpo"), loss=loss)
    raise ConfigError(
        f"loss={type(loss).__name__} is neither a PreferenceLoss nor a PolicyGradientLoss; check it with its algorithm"
    )


def report(cfg: DictConfig, subject: Subject, name: str) -> int:
    """Test the laws and print each result as it comes."""
    from rlx.check.checker import LAWS, check_algorithm, finding_of
    from rlx.check.finding import Verdict
    from rlx.config.suggest import did_you_mean, nearest
    from rlx.report.terminal import law_lines, summary_line

    wanted = list(LAWS) if cfg.laws is None else [cfg.laws] if isinstance(cfg.laws, str) else list(cfg.laws)
    for law in wanted:
        if law not in LAWS:
            raise ConfigError(
                f"laws: there is no law {law}{did_you_mean(nearest(str(law), LAWS)) or '; they are ' + ', '.join(LAWS)}"
            )
    start = time.monotonic()
    verdicts: list[dict[str, Any]] = []

    def show(verdict: Verdict) -> None:
        verdicts.append(verdict.as_dict())
        if not cfg.json:
            print("".join(f"{line}\n" for line in law_lines(verdicts[-1])), end="", flush=True)

    for verdict in check_algorithm(subject, laws={law: LAWS[law] for law in wanted}):
        show(verdict)
    notes: list[str] = []
    if "hyperparameters" in wanted and not has_failed(verdicts):
        try:
            notes = task_notes(subject)
        except Exception as error:
            if isinstance(error, RlxError) and not isinstance(error, NonFiniteError):
                raise
            # the algorithm's, which the made-up rows of the laws did not provoke
            show(Verdict("task", "Steps on rows that are drawn from the task raise no error.", finding_of(error)))
    failed = has_failed(verdicts)
    seconds = time.monotonic() - start
    said = "" if failed else hint(subject, name)
    if cfg.json:
        values = {"subject": name, "passed": not failed, "seconds": round(seconds, 3), "laws": verdicts, "notes": notes}
        values["hint"] = said or None
        print(json.dumps(values, indent=2))
    else:
        print("".join(f"warning {note}\n" for note in notes), end="")
        print(f"hint    {said}\n" if said else "", end="")
        print(summary_line(name, verdicts, seconds))
    return int(failed)


def has_failed(verdicts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one of the laws is broken."""
    return any(verdict["status"] == "failed" for verdict in verdicts)


def hint(subject: Subject, name: str) -> str:
    """One line if the checked object claims to be a formula of rlx: whether it is, or where they first differ; else empty."""
    from rlx.check.same_as.algorithm import compare

    group, _, own = name.split()[-1].partition("=")
    if not (claim := claim_of(subject.algorithm, of_loss=group == "loss")):
        return ""
    mine, theirs, found = claim
    words = [f"{group}={own}"]
    if mine is getattr(subject.algorithm, "advantage", None):
        own = f"{type(mine).__module__}.{type(mine).__name__}"
        words.append(f"algorithm/advantage={own}")
    command = f"rlx check {shlex.join([*words, f'same_as={found}'])}"
    try:
        told = compare(subject, mine, theirs, name=found)
    except RlxError:  # of another kind
        return ""
    except Exception as error:  # in the user's code, on numbers that no law tests
        said = f"{type(error).__name__}: {error}"
        return f"{own} names {found}, and raises an error when the two are compared ({said}): `{command}`"
    if told.same:
        return f"{own} says that it is {found}, and computes the same: `{command}`"
    return f"{own} names {found} and differs from it: {told.first.partition('; ')[0]}; `{command}` says where"


def claim_of(algorithm: Any, *, of_loss: bool) -> tuple[Any, Any, str] | None:
    """(the algorithm, loss or advantage that claims to be a formula of rlx; that formula; its name)."""
    import rlx
    from rlx.check.claim import claimed
    from rlx.config.compose import groups
    from rlx.config.schema import conf_dir

    options = groups([conf_dir()])
    algorithms, losses, advantages = (options[group] for group in ("algorithm", "loss", "algorithm/advantage"))
    if of_loss:
        mine = getattr(algorithm, "loss", None)
        return (mine, rlx.load("loss", found), found) if (found := claimed(mine, [*losses])) else None
    if found := claimed(algorithm, [*algorithms, *losses]):
        of_rlx = rlx.load("algorithm", found) if found in algorithms else plainest_with(rlx.load("loss", found))
        return algorithm, of_rlx, found
    mine = getattr(algorithm, "advantage", None)
    if not (found := claimed(mine, [*advantages, *algorithms])):
        return None
    words = [f"algorithm={found}"] if found in algorithms else ["algorithm=custom_grpo", f"algorithm/advantage={found}"]
    theirs = getattr(algorithm_named(words), "advantage", None)
    return mine, theirs, found if found in advantages else type(theirs).__name__


def algorithm_named(words: list[str]) -> Any:
    """The algorithm that a command line names: an algorithm itself, or the simplest one with a named loss."""
    from rlx.cli.failure import composed_line
    from rlx.config.compose import CommandLine

    other = narrow(composed_line(CommandLine(argv=["check"], verb="check", overrides=words)))
    other.check(SCHEMA)
    return algorithm_in(other.config)


def algorithm_in(cfg: DictConfig) -> Any:
    """The algorithm of a config; if it has only a loss, the simplest algorithm that reads it."""
    from rlx.experiment import algorithm_of, make

    return algorithm_of(cfg) if "algorithm" in cfg else plainest_with(make(cfg.loss, key="loss"))


def exactly(cfg: DictConfig, subject: Subject, name: str) -> int:
    """Print bias and variance of the gradient estimator over all completions of a small vocabulary; returns 0."""
    from rlx.check.exact.expectation import exact_report
    from rlx.report.terminal import exact_lines

    found = exact_report(subject)
    print(json.dumps({"subject": name, **found}, indent=2) if cfg.json else "\n".join(exact_lines(name, found)))
    return 0


def compare_functions(composed: Composed, subject: Subject) -> int:
    """0 if the object that the command line names last is the same function as `same_as`, 1 if not; prints where they differ."""
    from rlx.check.same_as.algorithm import compare
    from rlx.config.compose import groups
    from rlx.config.schema import conf_dir
    from rlx.experiment import make
    from rlx.report.terminal import comparison_lines

    name = str(composed.config.same_as)
    group = next(group for group in ("algorithm/advantage", "loss", "algorithm") if composed.named(group))
    host = ["algorithm=custom_grpo"] if group == "algorithm/advantage" else []
    options = groups([conf_dir()])
    of_loss = group == "algorithm" and name in options["loss"] and name not in options["algorithm"]
    words = [*host, f"{'loss' if of_loss else group}={name}"]
    mine: Any = subject.algorithm
    theirs: Any = algorithm_named(words)  # of a loss: the simplest algorithm with it
    if group == "loss":
        mine, theirs = make(composed.config.loss, key="loss"), theirs.loss
    if group == "algorithm/advantage":
        mine, theirs = getattr(mine, "advantage", None), getattr(theirs, "advantage", None)
    found = compare(subject, mine, theirs, name=name)
    named = f"{group}={composed.choices[group]}"
    if composed.config.json:
        print(json.dumps({"subject": named, "same_as": name, **found.as_dict()}, indent=2))
    else:
        print("\n".join(comparison_lines(named, name, found.as_dict())))
    return int(not found.same)


def task_notes(subject: Subject) -> list[str]:
    """One sentence for each hyperparameter that has an effect on synthetic numbers but none on the task's rows."""
    import warnings

    from rlx.check.task_effect import idle_keys
    from rlx.check.variant import small

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = idle_keys(subject.with_algorithm(small(subject.algorithm)))
    return [
        f"{name} changes nothing on the rows of task {subject.task.name} that were tried, though it does on made-up numbers: a "
        "sweep of it there compares identical runs; try a task where what it acts on occurs"
        for name in names
    ]


def doctor(cfg: DictConfig) -> int:
    """Print what this installation can do, and what is missing."""
    from rlx.check.doctor import examine
    from rlx.report.terminal import doctor_lines
    from rlx.training.stop import Stopped

    facts = []
    try:
        for fact in examine(threads=cfg.threads):
            facts.append(fact.as_dict())
            if not cfg.json:
                print("\n".join(doctor_lines([facts[-1]])), flush=True)
    except Stopped as stopped:  # the short run listens to signals, and is ended by one
        print(f"rlx: the check was stopped by {stopped.signal_name}; run it again", file=sys.stderr)
        return stopped.exit_code
    bad = [fact["name"] for fact in facts if fact["mark"] == "bad"]
    if cfg.json:
        print(json.dumps({"passed": not bad, "facts": facts}, indent=2))
    return int(bool(bad))
