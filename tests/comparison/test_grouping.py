import pytest

from rlx.comparison.grouping import find_label, group, short_names, shortest_name, swept_keys
from rlx.comparison.refusal import collect
from rlx.errors import ConfigError
from tests.comparison.records import write_run


def runs_in(path):
    return collect(path, metric="eval/score", score="last").runs


def grouped(path, by=None):
    return group(runs_in(path), by=by)


def test_algorithms_are_called_by_their_names(tmp_path):
    for algorithm in ("custom_dpo", "grpo"):
        for seed in (0, 1):
            write_run(tmp_path / f"{algorithm}{seed}", algorithm=algorithm, seed=seed)
    found = grouped(tmp_path)
    assert sorted(found.labels) == ["custom_dpo", "grpo"]
    assert not found.mixed
    assert not found.beyond


def test_a_swept_key_is_named_once_though_records_of_before_hold_a_loss_twice(tmp_path):
    for beta in (0.1, 0.5):
        write_run(tmp_path / f"b{beta}", loss__beta=beta, algorithm__loss__beta=beta)
    assert grouped(tmp_path).labels == ("custom_dpo beta=0.1", "custom_dpo beta=0.5")


def test_another_loss_is_named_by_its_class_and_not_by_what_came_with_it(tmp_path):
    write_run(tmp_path / "a")
    ipo = {"_target_": "rlx.loss.preference.margin.ipo", "tau": 0.1}
    write_run(tmp_path / "b", loss=ipo, algorithm__loss=ipo)
    assert grouped(tmp_path).labels == ("custom_dpo loss=dpo", "custom_dpo loss=ipo")


def test_places_and_pieces_make_no_variant(tmp_path):
    write_run(tmp_path / "a", seed=0)
    write_run(tmp_path / "b", seed=1, output_dir="elsewhere", micro_batch=4, threads=2, logger={"tensorboard": {}})
    assert grouped(tmp_path).labels == ("custom_dpo",)


def test_long_values_are_shortened_in_labels(tmp_path):
    for size in (2999, 3000):
        write_run(tmp_path / str(size), rollout={"stop": [f"w{n}" for n in range(size)]})
    labels = grouped(tmp_path).labels
    assert len(set(labels)) == 2
    assert all(label.startswith("custom_dpo stop=[") and len(label) < 150 for label in labels)


def test_by_groups_and_names_what_it_mixes(tmp_path):
    for lr in (0.1, 0.2):
        for algorithm in ("custom_dpo", "grpo"):
            write_run(tmp_path / f"{algorithm}{lr}", algorithm=algorithm, optimizer__lr=lr)
    by_algorithm = grouped(tmp_path, by=("algorithm",))
    assert by_algorithm.labels == ("custom_dpo", "grpo")
    assert by_algorithm.mixed == {"custom_dpo": ("optimizer.lr",), "grpo": ("optimizer.lr",)}
    assert grouped(tmp_path, by=("lr",)).labels == ("lr=0.1", "lr=0.2")
    assert grouped(tmp_path, by=("algorithm", "optimizer.lr")).labels[0] == "custom_dpo lr=0.1"


@pytest.mark.parametrize(
    ("name", "hint"), [("optimizer.lrr", "optimizer.lr"), ("learning_rate", "optimizer.lr"), ("seed", "averages over")]
)
def test_a_key_that_no_run_has_is_answered_with_the_nearest(tmp_path, name, hint):
    write_run(tmp_path / "a")
    with pytest.raises(ConfigError, match=hint):
        grouped(tmp_path, by=(name,))


def test_what_always_goes_with_the_algorithm_is_a_confounder(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"a{seed}", algorithm="custom_dpo", seed=seed, optimizer__lr=0.1)
        write_run(tmp_path / f"b{seed}", algorithm="grpo", seed=seed, optimizer__lr=0.2)
    found = grouped(tmp_path)
    assert sorted(found.labels) == ["custom_dpo", "grpo"]
    assert found.beyond == ("optimizer.lr",)


def test_an_edited_source_file_is_another_variant(tmp_path):
    for seed, digest in ((0, "aaa"), (0, "bbb")):
        write_run(tmp_path / digest, seed=seed, record={"sources": [{"module": "my_lab", "sha256": digest}]})
    assert len(grouped(tmp_path).labels) == 2


def test_a_key_that_a_variant_does_not_have_is_not_named(tmp_path):
    write_run(tmp_path / "a", algorithm__weight=0.1)
    write_run(tmp_path / "b", algorithm__weight=0.2, algorithm__tau=0.3)
    assert sorted(grouped(tmp_path).labels) == ["custom_dpo weight=0.1", "custom_dpo weight=0.2 tau=0.3"]


def test_settings_of_a_task_make_tasks(tmp_path):
    write_run(tmp_path / "a", task__max_operand=9)
    write_run(tmp_path / "b", task__max_operand=99)
    assert sorted({run.task for run in grouped(tmp_path).runs}) == ["arithmetic max_operand=9", "arithmetic max_operand=99"]


def test_short_names_are_unambiguous():
    keys = ["a.b.lr", "c.b.lr", "x.beta", "loss._target_"]
    assert short_names(keys) == {"a.b.lr": "a.b.lr", "c.b.lr": "c.b.lr", "x.beta": "beta", "loss._target_": "loss"}


def test_labels_are_found_by_their_algorithm_if_that_is_unambiguous():
    labels = ["custom_dpo", "hybrid w=1", "hybrid w=2"]
    assert find_label("custom_dpo", labels, key="baseline") == "custom_dpo"
    assert find_label("hybrid", labels[:2], key="baseline") == "hybrid w=1"
    with pytest.raises(ConfigError, match="several variants are hybrid; type one of: w=1; w=2"):
        find_label("hybrid", labels, key="baseline")
    with pytest.raises(ConfigError, match=r"did you mean custom_dpo.* type one of: custom_dpo; w=1; w=2"):
        find_label("custm_dpo", labels, key="baseline")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        *[
            ("DPO", "custom_dpo loss=dpo"),
            ("ipo", "custom_dpo loss=ipo beta=0.5"),
            ("loss.beta=0.5", "custom_dpo loss=ipo beta=0.5"),
        ],
        *[("loss=dpo", "custom_dpo loss=dpo"), ("grpo", "custom_grpo"), ("ipo beta=0.5", "custom_dpo loss=ipo beta=0.5")],
    ],
)
def test_labels_are_found_by_whatever_tells_them_apart(name, label):
    labels = ["custom_dpo loss=dpo", "custom_dpo loss=ipo beta=0.5", "custom_grpo"]
    assert find_label(name, labels, key="baseline") == label


def test_the_shortest_name_is_taken_for_its_variant():
    labels = [
        "custom_dpo loss=dpo",
        "custom_dpo loss=ipo beta=0.5",
        "custom_grpo",
        "hybrid a=1 b=1",
        "hybrid a=1 b=2",
        "hybrid a=2 b=1",
    ]
    for label in labels:
        assert find_label(shortest_name(label, labels), labels, key="baseline") == label


def test_a_source_is_named_only_where_variants_differ_by_it_alone(tmp_path):
    ours = {"_target_": "my_pref.Mine", "beta": 0.1}
    sources = [{"module": "my_pref", "sha256": "a" * 64}]
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", loss=ours, algorithm__loss=ours, record={"sources": sources})
    assert grouped(tmp_path).labels == ("custom_dpo loss=dpo", "custom_dpo loss=Mine")
    edited = [{"module": "my_pref", "sha256": "b" * 64}]
    write_run(tmp_path / "c", loss=ours, algorithm__loss=ours, record={"sources": edited})
    assert set(grouped(tmp_path).labels) == {
        "custom_dpo loss=dpo",
        "custom_dpo loss=Mine source my_pref=aaaaaaaa",
        "custom_dpo loss=Mine source my_pref=bbbbbbbb",
    }


def test_swept_keys_are_those_that_were_given_several_values():
    dpo, slic = ({"loss._target_": name, "lr": lr, f"loss.{name}": lr} for name, lr in (("dpo", 1), ("slic", 2)))
    assert swept_keys([dpo, slic], []) == ["lr"]
    assert swept_keys([dpo, dpo], []) == []
    both = [{"lr": 0.1, "path": "a"}, {"lr": 0.2, "path": "b"}]
    assert swept_keys(both, ["seed=1", "lr=0.1"]) == ["lr"]
    assert swept_keys(both, ["seed=1"]) == ["lr", "path"]


def test_an_ambiguous_key_is_asked_for_in_full_unless_one_is_the_shallowest_that_differs(tmp_path):
    for value in (1, 2):
        write_run(tmp_path / f"r{value}", first__part__size=value, second__part__size=value)
    with pytest.raises(ConfigError, match=r"several keys are called so: first\.part\.size, second\.part\.size"):
        grouped(tmp_path, by=("size",))
    assert grouped(tmp_path, by=("first.part.size",)).labels == ("size=1", "size=2")
    for value in (1, 2):
        write_run(tmp_path / f"s{value}", size=value, first__part__size=value, second__part__size=value)
    assert grouped(tmp_path, by=("size",)).keys == ("size",)


def test_a_key_that_differs_wins_over_its_namesakes_that_do_not(tmp_path):
    for value in (1, 2):
        write_run(tmp_path / f"r{value}", first__size=value, second__size=7)
    assert grouped(tmp_path, by=("size",)).keys == ("first.size",)


def test_a_loss_of_ones_own_is_named_even_where_all_variants_of_the_algorithm_have_it(tmp_path):
    own = {"_target_": "mylab.anchored", "beta": 0.2}
    for seed in range(2):
        write_run(tmp_path / f"a{seed}", seed=seed, loss=own, algorithm__loss=own)
        write_run(tmp_path / f"b{seed}", seed=seed, algorithm="dpo")
    runs = collect(tmp_path, metric="eval/score", score="last").runs
    assert set(group(runs, by=None).labels) == {"custom_dpo loss=anchored", "dpo"}
    assert find_label("anchored", group(runs, by=None).labels, key="baseline") == "custom_dpo loss=anchored"
