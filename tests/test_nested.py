from rlx.nested import MOST_OF_NAME, leaves, shortened, walk

CONFIG = {"a": {"b": 1, "c": {}}, "d": [1, {"e": 2}]}


def test_a_mapping_comes_before_its_entries():
    assert list(walk(CONFIG)) == [("a", CONFIG["a"]), ("a.b", 1), ("a.c", {}), ("d", CONFIG["d"])]


def test_items_of_lists_are_entries_where_they_are_asked_for():
    assert [path for path, _ in walk(CONFIG, "top", lists=True)][-4:] == ["top.d", "top.d[0]", "top.d[1]", "top.d[1].e"]


def test_an_empty_mapping_and_a_list_are_leaves():
    assert leaves(CONFIG) == {"a.b": 1, "a.c": {}, "d": [1, {"e": 2}]}
    assert leaves(3) == {}


def test_a_long_setting_is_named_by_its_beginning_and_a_hash():
    assert shortened("loss.beta=0.1") == "loss.beta=0.1"
    long = "stop=[" + ", ".join(f"w{n}" for n in range(3000)) + "]"
    other = long[:-2] + "x]"
    assert len(shortened(long)) <= MOST_OF_NAME
    assert shortened(long).startswith("stop=[w0,_w1,")
    assert f"{len(long)}_characters" in shortened(long)
    assert shortened(long) != shortened(other)
    assert " " not in shortened(long)
