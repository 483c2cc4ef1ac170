"""Frozen dataclasses from YAML: presets, files and ``key=value`` words. Each mistake is an error that names the key.

A field declares its range with :func:`setting`; its type is what a value is checked against.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from diwa_conventions.errors import UserError, unknown

Config = TypeVar("Config")


def setting(default: Any, low: float = -math.inf, high: float = math.inf) -> Any:
    """A field that lies between ``low`` and ``high``, both included."""
    return field(default=default, metadata={"low": low, "high": high})


def from_mapping(kind: type[Config], values: Mapping[str, Any], prefix: str = "") -> Config:
    """An instance of a dataclass; UserError for an unknown key, another type, or a value out of range."""
    if not isinstance(values, Mapping):
        raise UserError(f"{prefix.rstrip('.') or 'config'} is {values!r}; expected a table of settings")
    hints = get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise unknown("setting", f"{prefix}{name}", [f"{prefix}{one}" for one in known])
    missing = [name for name, item in known.items() if name not in values and not _has_default(item)]
    if missing:
        raise UserError(f"setting {prefix}{missing[0]} is missing")
    return kind(
        **{name: _checked(f"{prefix}{name}", value, hints[name], known[name]) for name, value in values.items()}
    )


def _has_default(item: Any) -> bool:
    return item.default is not MISSING or item.default_factory is not MISSING


def _checked(name: str, value: Any, kind: Any, item: Any) -> Any:
    if is_dataclass(kind):
        return from_mapping(kind, value, f"{name}.")  # type: ignore[arg-type]
    if get_origin(kind) in (Union, types.UnionType):
        if value is None:
            return None
        kind = next(one for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UserError(f"{name} is {value!r}; expected one of {', '.join(map(str, get_args(kind)))}")
        return value
    if get_origin(kind) is tuple:
        return _checked_list(name, value, get_args(kind)[0])
    return _checked_scalar(name, value, kind, item)


def _checked_list(name: str, value: Any, kind: type[Any]) -> tuple[Any, ...]:
    """Whole numbers are numbers too, true and false are not."""
    fits = (int, float) if kind is float else kind
    sound = isinstance(value, (list, tuple)) and all(isinstance(one, fits) for one in value)
    if not sound or (kind is not bool and any(isinstance(one, bool) for one in value)):
        raise UserError(f"{name} is {value!r}; expected a list of {kind.__name__}")
    if kind is float and not all(map(math.isfinite, value)):
        raise UserError(f"{name} is {value!r}; expected finite numbers")
    return tuple(map(kind, value))


def _checked_scalar(name: str, value: Any, kind: type[Any], item: Any) -> Any:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    if kind is float and isinstance(value, str):
        value = _number(value)  # YAML 1.1 reads 1e-5 as a word
    fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    low, high = item.metadata.get("low", -math.inf), item.metadata.get("high", math.inf)
    if not fits or (kind in (int, float) and not (math.isfinite(value) and low <= value <= high)):
        bounds = f" from {low:g} to {high:g}" if math.isfinite(high) else f" of at least {low:g}"
        raise UserError(f"{name} is {value!r}; expected {words[kind]}{bounds if math.isfinite(low) else ''}")
    return float(value) if kind is float else value


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def to_mapping(config: Any) -> dict[str, Any]:
    """Inverse of :func:`from_mapping`, with lists for tuples."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(one) for name, one in value.items()}
        return [plain(one) for one in value] if isinstance(value, tuple) else value

    content = plain(asdict(config))
    assert isinstance(content, dict)
    return content


def read_yaml(path: Path) -> dict[str, Any]:
    """The table in a YAML file; UserError where it cannot be read or holds something else."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}; expected a table of settings")
    return content


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with what ``over`` says instead, table by table."""
    both = dict(base)
    for name, value in over.items():
        below = both.get(name)
        both[name] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return both


def from_file_and_words(path: Path | None, words: Sequence[str]) -> dict[str, Any]:
    """What a stage's ``--config`` and ``--set`` say beside its preset; words count more than the file."""
    return merged(read_yaml(path) if path else {}, from_words(words))


def from_words(words: Sequence[str]) -> dict[str, Any]:
    """The table of words such as ``model.kl_scale=1.0``; UserError for a word of another form."""
    table: dict[str, Any] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign or not all(name.split(".")):
            raise UserError(f"setting {word!r}; expected key=value, e.g. model.kl_scale=1.0")
        try:
            value: Any = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"setting {word!r}: the value is not YAML") from None
        for part in reversed(name.split(".")):
            value = {part: value}
        table = merged(table, value)
    return table
