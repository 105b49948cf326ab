import pytest

from data.common.shapes import any_may_miss, mismatch

SHAPE = {
    "n": (int, float),
    "name": str,
    "rows": [{"id": int, "note?": str}],
    "by_class?": {"*": [int]},
    "plain~": bool,
    "either": ([str], None),
}
GOOD = {"n": 1, "name": "a", "rows": [{"id": 1}], "either": None, "more": object}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"n": 1.5, "by_class": None, "plain": True, "either": ["a"]}, ""),
        ({"rows": [{"id": 1, "note": None}], "by_class": {"a": [1], "b": []}}, ""),
        ({"n": True}, "it.n is true or false, expected a whole number or a number"),
        ({"n": None}, "it.n is null, expected a whole number or a number"),
        ({"name": 3}, "it.name is a whole number, expected text"),
        ({"name": ...}, "it.name is missing"),
        ({"rows": {}}, "it.rows is an object, expected a list"),
        ({"rows": [{"id": 1}, {"id": "2"}]}, "it.rows[1].id is text, expected a whole number"),
        ({"rows": [{"id": 1, "note": []}]}, "it.rows[0].note is a list, expected text"),
        ({"by_class": {"a": [1], "b": [1.0]}}, "it.by_class.b[0] is a number, expected a whole"),
        ({"plain": None}, "it.plain is null, expected true or false"),
        ({"plain": 0}, "it.plain is a whole number, expected true or false"),
        ({"either": "a"}, "it.either is text, expected a list or null"),
        ({"either": [2]}, "it.either[0] is a whole number, expected text"),
    ],
)
def test_the_first_place_that_does_not_fit_is_named(changes, told):
    value = {k: v for k, v in {**GOOD, **changes}.items() if v is not ...}
    found = mismatch(value, SHAPE, "it")
    assert found.startswith(told) and bool(found) == bool(told)


def test_what_may_miss_is_checked_where_it_is_there():
    shape = any_may_miss({"a": str, "b": {"c": int}})
    assert mismatch({}, shape, "it") == mismatch({"b": {}}, shape, "it") == ""
    assert mismatch({"a": None}, shape, "it") == "it.a is null, expected text"
    assert mismatch({"b": {"c": ""}}, shape, "it") == "it.b.c is text, expected a whole number"
    assert mismatch([], shape, "it") == "it is a list, expected an object"


@pytest.mark.parametrize("shape", [int, (int, None), (int, [int])])
def test_long_lists_are_looked_at_whole(shape):
    long: list[object] = [*range(5000)]
    assert mismatch(long, [shape], "it") == ""
    for odd in (True, 0.5, "1", {}):
        found = mismatch([*long, odd, 7], [shape], "it")
        assert found.startswith("it[5000] is ")
