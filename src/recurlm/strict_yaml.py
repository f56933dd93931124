"""Strict reading of params.yaml: a key that stands twice and a value that does not fit are named with their place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError, ValidationInfo, field_validator

from recurlm.errors import InputError, nearest


class UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML's safe loader takes the last of two values of a key without a word; this one refuses them."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Before merge keys (<<) are resolved: what they bring may be said otherwise.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in first:
                raise DuplicateKeyError(
                    f"line {line}: '{key.value}' stands a second time; it stands in line {first[name]} already: "
                    "delete one of them"
                )
            first[name] = line
        return node


class DuplicateKeyError(yaml.YAMLError):
    """A key stands twice in one section."""


def load_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        InputError: the file is not YAML, or a key stands twice: the key and its line are named.
        FileNotFoundError: there is no such file.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeyLoader)
    except DuplicateKeyError as error:
        raise InputError(f"{path}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path}: not YAML ({error})") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply to be read") from None


class AsWritten(BaseModel):
    """Values as they are written: pydantic would take `yes` for the number 1."""

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a boolean for a number, and what comes twice in a list of any length."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        entries = value if isinstance(value, (list, tuple)) else (value,)
        if any(isinstance(entry, bool) for entry in entries) and _is_number(annotation):
            raise ValueError("write numbers" if entries is value else "write a number")
        if isinstance(value, (list, tuple)) and get_args(annotation)[-1:] == (Ellipsis,):
            for entry in value:
                if value.count(entry) > 1:
                    raise ValueError(f"{entry!r} is there twice")
        return value


def _is_number(annotation: Any) -> bool:
    return annotation in (int, float) or any(map(_is_number, get_args(annotation)))


def first_misfit(error: ValidationError, root: type[BaseModel]) -> str:
    """What does not fit first, where, and the nearest name that would.

    Args:
        root: what was validated.
    """
    misfit = error.errors()[0]
    where = ".".join(str(part) for part in misfit["loc"])
    if misfit["type"] == "extra_forbidden":
        *parents, key = misfit["loc"]
        return f"unknown parameter '{where}': {nearest(str(key), _known_keys(parents, root))}"
    if misfit["type"] == "missing":
        return f"'{where}' is missing"
    value = misfit["input"]
    misspelt = misfit["type"] == "literal_error" and isinstance(value, str)
    hint = f" ({nearest(value, _choices(misfit))})" if misspelt else ""
    message = misfit["msg"].removeprefix("Value error, ")  # pydantic's, before what a validator of ours says
    return f"'{where}' is {value!r}: {message}{hint}"


def _choices(misfit: Any) -> list[str]:
    return [part.strip("'") for part in misfit["ctx"]["expected"].replace(" or ", ", ").split(", ")]


def _known_keys(parents: list[int | str], section: type[BaseModel]) -> list[str]:
    """The keys that the section at `parents` of another one may hold."""
    for part in parents:
        if isinstance(part, int):
            continue
        annotation: Any = section.model_fields[part].annotation
        while not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            annotation = annotation.__args__[0]
        section = annotation
    return list(section.model_fields)


S = TypeVar("S", bound=BaseModel)


def override(section: S, changes: Mapping[str, Any]) -> S:
    """A section with some values replaced, by dotted keys: `override(params.train, {"data.epochs": 3})`.

    Raises:
        InputError: a key is unknown, or a value does not fit.
    """
    values = section.model_dump()
    for key, value in changes.items():
        *parents, last = key.split(".")
        place = values
        for parent in parents:
            place = place[parent]
        place[last] = value
    try:
        return type(section).model_validate(values)
    except ValidationError as error:
        raise InputError(f"{type(section).__name__}: {first_misfit(error, type(section))}") from None
