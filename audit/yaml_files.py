"""Read YAML within bounds, and refuse a key given twice, of which the parser would silently keep the last."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from audit.files import ForeignError, read_bounded

MOST_CHARACTERS = 1_000_000  # a spec has a few thousand
_DEEPEST = 64  # levels of lists and mappings
_MOST_VALUES = 200_000  # with every alias written out
_DIGITS = 4_200  # of one number; what a field takes is said with the field
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses duplicate keys and deep nesting."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > _DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, f"it is nested deeper than {_DEEPEST} levels", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<` takes in another mapping, and is no key
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} appears twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str) else id(key_node))
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """Return the document in `text`.

    Raises `yaml.YAMLError` for what is not YAML, and for a key that appears twice, values nested deeper than 64 levels,
    aliases that multiply into more than 200,000 values or contain themselves, numbers of more than 4,200 digits, control
    characters in text, and more than a million characters.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"it has {len(text)} characters, and at most {MOST_CHARACTERS} are read")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError:
        raise
    except (
        Exception
    ) as error:  # PyYAML's constructors raise nearly every built-in exception, as for the date 2001-99-99
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise yaml.YAMLError(f"a value cannot be read: {reason}") from None
    finally:
        loader.dispose()


def read_yaml(path: Path) -> Any:
    """Return the document of the YAML file at `path`.

    Raises as `load_yaml`, `UnicodeDecodeError` for what is not UTF-8, `ForeignError` for what is no file or far too large,
    and `OSError` for what cannot be opened, folders among them.
    """
    if path.is_dir():
        raise IsADirectoryError(21, os.strerror(21), str(path))
    return load_yaml(read_bounded(path, 4 * MOST_CHARACTERS).decode("utf-8"))


def reason(error: OSError | UnicodeDecodeError | yaml.YAMLError | ForeignError) -> str:
    """Return one line that says why `read_yaml` failed."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return " ".join(str(error).split())[:300]


def _check_size(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """Return the values that `node` stands for, its aliases written out; None in `sizes` marks what is being counted.

    Raises `ConstructorError` for too many, for a node inside itself, and for a scalar that is no text or too long a number.
    """
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node)
        return 1
    known = sizes.get(id(node), 0)
    if known is None:
        raise _refused("an alias stands inside what it repeats", node)
    if known:
        return known
    sizes[id(node)] = None
    children = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
    total = 1 + sum(_check_size(child, sizes) for child in children)
    if total > _MOST_VALUES:
        raise _refused(f"its aliases multiply into more than {_MOST_VALUES} values", node)
    sizes[id(node)] = total
    return total


def _check_scalar(node: yaml.ScalarNode) -> None:
    if match := _NO_TEXT.search(node.value):
        raise _refused(f"a text holds the character {match[0]!r}, which none may", node)
    if node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float") and len(node.value) > _DIGITS:
        raise _refused(f"a number of {len(node.value)} digits", node)


def _refused(what: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)
