"""Samplers on a function with a known optimum, pruners, seeds, and a study that goes on."""

import pytest

pytest.importorskip("optuna")
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from rlx.config import conf_dir
from rlx.config.compose import read_yaml
from rlx.errors import ConfigError, DataError
from rlx.sweep.plan.settings import settings_of
from rlx.sweep.plan.space import dimension_of, space_of
from rlx.sweep.search.study import Study, signs_of

pytestmark = pytest.mark.whole


def dimensions(*overrides):
    return [dimension_of(axis) for axis in space_of(OverridesParser.create().parse_overrides(list(overrides))).axes]


def settings(**changes):
    node = {}
    for name in ("grid", "random", "optuna"):
        values = OmegaConf.to_container(read_yaml(conf_dir() / "sweep" / f"{name}.yaml"))
        node |= {key: values[key] for key in values if key != "defaults"}
    return settings_of(node | changes)


def study(tmp_path, *overrides, **changes):
    return Study(tmp_path, dimensions(*(overrides or ("x=interval(0,1)", "y=interval(-3,1)"))), settings(**changes))


def point(differs):
    return {key: float(value) for key, _, value in (text.partition("=") for text in differs)}


def height(differs):
    at = point(differs)
    return 1 - (at["x"] - 0.3) ** 2 - 0.1 * (at.get("y", -1) + 1) ** 2


def search(study, trials, value=height):
    for _ in range(trials):
        number, differs = study.ask()
        study.tell(number, [{"eval/score": value(differs)}])
    return study.best()[0]


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "nsga2"])
def test_samplers_come_near_the_best(tmp_path, sampler):
    best = search(study(tmp_path, sampler=sampler, startup_trials=8), 50)
    assert best.values[0] > 0.93  # a random point has 0.77 on average


@pytest.mark.parametrize("sampler", [pytest.param("gp", marks=pytest.mark.slow), "cmaes"])
def test_samplers_that_need_a_package_more(tmp_path, sampler):
    pytest.importorskip({"gp": "torch"}.get(sampler, sampler))
    best = search(study(tmp_path, sampler=sampler, startup_trials=6), 20)
    assert best.values[0] > 0.93


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "nsga2", "grid"])
def test_a_search_that_is_killed_and_goes_on_asks_for_the_same_trials(tmp_path, sampler):
    space = ("x=range(0.0,1.0,0.1)", "y=-1,2")
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole, cut = (study(tmp_path / name, *space, sampler=sampler, startup_trials=3) for name in ("whole", "cut"))
    for trial in range(8):
        number, differs = whole.ask()
        if trial in (2, 5) and sampler != "qmc":  # killed before the trial has its overrides; a point of a sequence is lost then
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr("optuna.trial.Trial.set_user_attr", lambda *_: None)
                cut.ask()
            cut = study(tmp_path / "cut", *space, sampler=sampler, startup_trials=3)
        other, same = cut.ask()
        assert same == differs
        if trial == 5:
            cut = study(tmp_path / "cut", *space, sampler=sampler, startup_trials=3)
        for made, told in ((whole, number), (cut, other)):
            made.tell(told, [{"eval/score": height(differs)}])


def test_tpe_learns_where_random_does_not(tmp_path):
    def narrow(differs):
        return -abs(point(differs)["x"] - 0.317)

    found = {}
    for sampler in ("tpe", "random"):
        (tmp_path / sampler).mkdir()
        made = study(tmp_path / sampler, "x=interval(0,1)", sampler=sampler, startup_trials=5)
        search(made, 40, narrow)
        late = [trial.values[0] for trial in made.study.trials[20:]]
        found[sampler] = sum(late) / len(late)
    assert found["tpe"] > found["random"] + 0.1


def test_a_grid_tries_each_point_once(tmp_path):
    made = study(tmp_path, "x=range(0.0,0.65,0.1)", "y=-1,2", sampler="grid", trials=100)
    assert made.limit() == 14
    drawn = [made.ask()[1] for _ in range(14)]
    assert len(set(drawn)) == 14
    assert drawn[0] == ("x=0.0", "y=-1")
    assert drawn[-1] == ("x=0.6", "y=2")


def test_a_grid_of_an_interval_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot list x"):
        study(tmp_path, "x=interval(0,1)", sampler="grid").limit()


def test_values_on_a_log_scale_and_whole_numbers(tmp_path):
    made = study(tmp_path, "lr=tag(log,interval(1e-5,1e-1))", "n=int(interval(1,8))", sampler="random")
    points = [point(made.ask()[1]) for _ in range(60)]
    small = sum(at["lr"] < 1e-3 for at in points)
    assert 15 < small < 45  # half of the decades; on a linear scale one in a hundred
    assert {at["n"] for at in points} <= set(range(1, 9))


def test_a_study_goes_on_from_its_journal(tmp_path):
    first = study(tmp_path)
    search(first, 3)
    number, differs = first.ask()
    again = study(tmp_path)
    assert [trial.number for trial in again.begun()] == [0, 1, 2, 3]
    assert again.is_open(number)
    assert not again.is_open(0)
    assert tuple(again.begun()[number].user_attrs["differs"]) == differs
    assert again.ask()[0] == 4


def test_a_journal_cut_short_by_a_kill_is_read(tmp_path):
    search(study(tmp_path), 3)
    with open(tmp_path / "search.log", "ab") as journal:
        journal.write(b'{"op_code": 4, "wor')
    (tmp_path / "search.log.lock").touch()
    again = study(tmp_path)
    assert len(again.begun()) == 3
    search(again, 1)
    assert len(study(tmp_path).begun()) == 4


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"op_code":8', '"op_code":77'),
        ('"op_code":8', '"op_code":[]'),
        ('"state":1', '"state":9'),
        ('"param_name"', '"nope"'),
        ("FloatDistribution", "os.system"),
        ('"directions":[2]', '"directions":[1]'),
        ("x=0.", "x=0.9"),
        ("x=0.", "seed=0."),
        ("{", "\x00"),
    ],
)
def test_a_journal_that_was_changed_is_refused(tmp_path, old, new):
    search(study(tmp_path), 2)
    journal = tmp_path / "search.log"
    assert old in journal.read_text()
    journal.write_text(journal.read_text().replace(old, new))
    with pytest.raises(DataError, match=r"search\.log is damaged \(.*\); put it back, or begin a new search"):
        study(tmp_path)


def test_a_value_is_the_mean_over_seeds_and_nan_is_none(tmp_path):
    made = study(tmp_path)
    assert made.values_of([{"eval/score": 1.0}, {"eval/score": 2.0}]) == [1.5]
    assert made.values_of([{"eval/score": 1.0}, {"eval/score": float("nan")}]) is None
    assert made.values_of([{"eval/kl": 1.0}]) is None
    number, _ = made.ask()
    assert made.tell(number, [{"eval/score": float("inf")}]) is False
    assert made.best() == []


@pytest.mark.parametrize("pruner", ["median", "halving", "hyperband"])
def test_pruners_give_up_bad_trials(tmp_path, pruner):
    made = study(tmp_path, "x=interval(0,1)", pruner=pruner, startup_trials=3)
    pruned = {True: 0, False: 0}
    for trial in range(24):
        number, _ = made.ask()
        good = trial % 3 == 0
        for step in range(1, 28):
            if made.shall_prune(number, step, {"eval/score": (1.0 if good else 0.1) + 0.001 * step}):
                pruned[good] += 1
                made.tell(number, [{"eval/score": 0.0}], pruned=True)
                break
        else:
            made.tell(number, [{"eval/score": 1.0 if good else 0.1}])
    assert pruned[False] >= 6
    assert pruned[True] <= 1


def test_importance_names_what_matters(tmp_path):
    made = study(tmp_path, "x=interval(0,1)", "y=interval(-3,1)", sampler="random")
    search(made, 40, lambda differs: -((point(differs)["x"] - 0.3) ** 2))
    shares = made.importances()
    assert shares["x"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)


def test_objectives():
    assert signs_of(["eval/score", "-eval/kl"]) == {"eval/score": 1, "eval/kl": -1}
    with pytest.raises(ConfigError, match="objectives is empty"):
        signs_of([])


@pytest.mark.parametrize(
    "changes",
    [{"pruner": "median"}, {"seed_pruner": "wilcoxon"}, {"sampler": "cmaes"}],
    ids=lambda changes: next(iter(changes)),
)
def test_what_works_with_one_objective_alone_is_refused_for_two(tmp_path, changes):
    with pytest.raises(ConfigError, match=r"objectives|objective;"):
        study(tmp_path, objectives=["eval/score", "-eval/kl"], **changes)


def test_the_front_of_two_objectives(tmp_path):
    made = study(tmp_path, "x=range(0,5)", sampler="grid", objectives=["eval/score", "-eval/kl"])
    for figures in ((1, 1), (2, 2), (2, 3), (3, 3), (0, 5)):
        number, _ = made.ask()
        made.tell(number, [{"eval/score": figures[0], "eval/kl": figures[1]}])
    assert sorted(trial.number for trial in made.best()) == [0, 1, 3]
