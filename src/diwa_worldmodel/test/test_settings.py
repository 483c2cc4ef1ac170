"""Settings from YAML and words: what is read, and which line a mistake gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_conventions.errors import UserError
from diwa_worldmodel.settings import (
    from_file_and_words,
    from_mapping,
    from_words,
    merged,
    read_yaml,
    setting,
    to_mapping,
)


@dataclass(frozen=True)
class Inner:
    share: float = setting(0.5, 0.0, 1.0)
    names: tuple[str, ...] = ("a", "b")
    offset: tuple[float, ...] = ()


@dataclass(frozen=True)
class Outer:
    count: int
    rate: float = setting(1.0, 0.0)
    kind: Literal["one", "two"] = "one"
    loud: bool = False
    limit: float | None = None
    inner: Inner = field(default_factory=Inner)


def error_of(values: Any) -> str:
    with pytest.raises(UserError) as caught:
        from_mapping(Outer, values)
    return str(caught.value)


def test_what_is_not_said_has_its_default() -> None:
    assert from_mapping(Outer, {"count": 3}) == Outer(3)


def test_tables_lists_and_numbers_are_read() -> None:
    values = {"count": 3, "rate": 2, "kind": "two", "loud": True, "limit": 1.5, "inner": {"names": ["c"]}}
    assert from_mapping(Outer, values) == Outer(3, 2.0, "two", True, 1.5, Inner(names=("c",)))


def test_numbers_with_an_exponent_are_read_as_yaml_leaves_them() -> None:
    assert from_mapping(Outer, {"count": 1, "rate": "3e-4"}).rate == 3e-4


def test_whole_numbers_in_a_list_of_numbers_are_numbers() -> None:
    offset = from_mapping(Inner, {"offset": [0, 0.03, -1]}).offset
    assert offset == (0.0, 0.03, -1.0) and all(isinstance(one, float) for one in offset)


@pytest.mark.parametrize("offset", [[True, 0.1], ["a"], 0.1, [float("nan")], [float("inf")]])
def test_what_is_no_number_in_a_list_of_numbers_is_refused(offset: Any) -> None:
    assert "offset is" in error_of({"count": 1, "inner": {"offset": offset}})


def test_settings_come_back_from_their_table() -> None:
    config = Outer(7, 0.25, "two", True, None, Inner(0.1, ("x", "y", "z")))
    assert from_mapping(Outer, to_mapping(config)) == config


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"count": 1, "inner": {"share": 2}}, "inner.share is 2; expected a number from 0 to 1"),
        ({"count": 1, "rate": -1.0}, "rate is -1.0; expected a number of at least 0"),
        ({"count": 1, "rate": float("nan")}, "rate is nan; expected a number of at least 0"),
        ({"count": 1, "rate": "fast"}, "rate is 'fast'; expected a number of at least 0"),
        ({"count": 1.5}, "count is 1.5; expected a whole number"),
        ({"count": True}, "count is True; expected a whole number"),
        ({"count": None}, "count is None; expected a whole number"),
        ({"count": 1, "loud": 1}, "loud is 1; expected true or false"),
        ({"count": 1, "kind": "three"}, "kind is 'three'; expected one of one, two"),
        ({"count": 1, "inner": {"names": "abc"}}, "inner.names is 'abc'; expected a list of str"),
        ({"count": 1, "inner": {"names": [1]}}, "inner.names is [1]; expected a list of str"),
        ({"count": 1, "inner": 5}, "inner is 5; expected a table of settings"),
        ({}, "setting count is missing"),
        (5, "config is 5; expected a table of settings"),
    ],
)
def test_a_mistake_is_named_with_key_value_and_what_is_expected(values: Any, line: str) -> None:
    assert error_of(values) == line


def test_an_unknown_setting_is_named_with_the_nearest_known_one() -> None:
    line = error_of({"count": 1, "inner": {"shore": 0.1}})
    assert "inner.shore" in line
    assert "inner.share" in line


def test_words_become_tables() -> None:
    words = ["model.kl_scale=1.0", "training.steps=100", "model.cameras=[static]", "seed=1"]
    expected = {
        "model": {"kl_scale": 1.0, "cameras": ["static"]}, "training": {"steps": 100}, "seed": 1
    }  # fmt: skip
    assert from_words(words) == expected


def test_the_last_of_two_words_counts() -> None:
    assert from_words(["a.b=1", "a.b=2"]) == {"a": {"b": 2}}


def test_words_count_more_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("a: {b: 1, c: 2}")
    assert from_file_and_words(path, ["a.b=3"]) == {"a": {"b": 3, "c": 2}}
    assert from_file_and_words(None, ["a.b=3"]) == {"a": {"b": 3}}


@pytest.mark.parametrize("word", ["steps", "=1", "model..x=1", ".x=1", "x.=1"])
def test_a_word_of_another_form_is_refused(word: str) -> None:
    with pytest.raises(UserError, match="expected key=value"):
        from_words([word])


def test_a_word_whose_value_is_not_yaml_is_refused() -> None:
    with pytest.raises(UserError, match="the value is not YAML"):
        from_words(["a=[1"])


Tables = st.recursive(
    st.integers(), lambda below: st.dictionaries(st.sampled_from("abc"), below, max_size=3), max_leaves=8
).filter(lambda content: isinstance(content, dict))


@given(Tables, Tables)
def test_merged_tables_hold_what_the_second_says_and_else_the_first(base: dict[str, Any], over: dict[str, Any]) -> None:
    both = merged(base, over)
    assert set(both) == set(base) | set(over)
    for name, value in both.items():
        if name not in over:
            assert value == base[name]
        elif not (isinstance(over[name], dict) and isinstance(base.get(name), dict)):
            assert value == over[name]
        else:
            assert value == merged(base[name], over[name])


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("model:\n  kl_scale: 1.0\n")
    assert read_yaml(path) == {"model": {"kl_scale": 1.0}}


def test_a_file_of_comments_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("# nothing differs\n")
    assert read_yaml(path) == {}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"- a\n", "holds list; expected a table of settings"),
        (b"a: [1\n", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"a: !!python/object:os.system {}\n", "is not YAML"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path: Path, content: bytes, line: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert line in str(caught.value)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.yaml cannot be read"):
        read_yaml(tmp_path / "nowhere.yaml")
