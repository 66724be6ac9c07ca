"""Recipes as JSON: strict reading, with the path of what is wrong in the message."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tallformer_infer.config.recipe import Recipe
from tallformer_infer.errors import ConfigError

T = TypeVar("T")


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a JSON file.

    Raises:
        ConfigError: The file cannot be read, or its content is not a recipe.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    try:
        return recipe_from_json(value)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def recipe_from_json(value: object) -> Recipe:
    """Build a recipe from parsed JSON.

    Raises:
        ConfigError: A key is unknown, missing or of the wrong type; the message names it.
    """
    return from_json(Recipe, value, where="recipe")


def to_json(value: Any) -> Any:
    """Turn a (nested) frozen dataclass into plain JSON values; the inverse of `from_json`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_json(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not (field.metadata.get("left_out_as_default") and getattr(value, field.name) == field.default)
        }
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return value


def from_json(kind: type[T], value: object, *, where: str) -> T:
    """Build the dataclass `kind` from parsed JSON, refusing unknown keys and wrong types.

    Args:
        kind: A dataclass whose fields are numbers, strings, booleans, literals, tuples, unions or dataclasses.
        value: Parsed JSON.
        where: Path of `value` for messages.

    Raises:
        ConfigError: A key is unknown, missing or of the wrong type; the message names it.
    """
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected an object, got {_shown(value)}")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = [key for key in value if key not in fields]
    if unknown:
        raise ConfigError(f"{where}.{unknown[0]}: no such key; there are {', '.join(fields)}")
    missing = [
        name
        for name, field in fields.items()
        if name not in value and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}.{missing[0]}: missing")
    hints = get_type_hints(kind)
    return kind(**{key: _convert(hints[key], item, f"{where}.{key}") for key, item in value.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value, where=where)
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(hint), value, where)
    if origin is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{where}: expected one of {', '.join(map(str, get_args(hint)))}, got {_shown(value)}")
        return value
    if origin is tuple:
        return _convert_tuple(get_args(hint), value, where)
    if origin is dict:
        return _convert_dict(get_args(hint)[1], value, where)
    return _convert_scalar(hint, value, where)


def _convert_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    *others, last = (choice for choice in choices if choice is not type(None))
    if others and all(dataclasses.is_dataclass(choice) for choice in (*others, last)):
        return _convert_tagged((*others, last), value, where)
    for choice in others:
        with contextlib.suppress(ConfigError):
            return _convert(choice, value, where)
    return _convert(last, value, where)


def _convert_tagged(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    """One of several dataclasses, told apart by their field `kind`; without it, the first one."""
    tags = {get_args(get_type_hints(choice)["kind"])[0]: choice for choice in choices}
    tag = value.get("kind", next(iter(tags))) if isinstance(value, dict) else next(iter(tags))
    if not isinstance(tag, str) or tag not in tags:
        raise ConfigError(f"{where}.kind: expected one of {', '.join(tags)}, got {_shown(tag)}")
    return _convert(tags[tag], value, where)


def _convert_tuple(items: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{where}: expected a list, got {_shown(value)}")
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_convert(items[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if len(value) != len(items):
        raise ConfigError(f"{where}: expected {len(items)} values, got {len(value)}")
    return tuple(
        _convert(hint, item, f"{where}[{index}]") for index, (hint, item) in enumerate(zip(items, value, strict=True))
    )


def _convert_dict(hint: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected an object, got {_shown(value)}")
    return {key: _convert(hint, item, f"{where}.{key}") for key, item in value.items()}


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ConfigError(f"{where}: expected {_NAMES.get(hint, hint.__name__)}, got {_shown(value)}")
    return value


_NAMES = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
