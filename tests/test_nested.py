from rlx.nested import leaves, walk

CONFIG = {"a": {"b": 1, "c": {}}, "d": [1, {"e": 2}]}


def test_a_mapping_comes_before_its_entries():
    assert list(walk(CONFIG)) == [("a", CONFIG["a"]), ("a.b", 1), ("a.c", {}), ("d", CONFIG["d"])]


def test_items_of_lists_are_entries_where_they_are_asked_for():
    assert [path for path, _ in walk(CONFIG, "top", lists=True)][-4:] == ["top.d", "top.d[0]", "top.d[1]", "top.d[1].e"]


def test_an_empty_mapping_and_a_list_are_leaves():
    assert leaves(CONFIG) == {"a.b": 1, "a.c": {}, "d": [1, {"e": 2}]}
    assert leaves(3) == {}
