"""Reading a run: one YAML file, overridden on the command line, unknown keys refused.

A key is written ``section.name``; ``python jobs/align.py kto.beta=0.2`` overrides one. ``describe()`` prints
them all and is what ``--help`` shows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from valuealign.config.schema import RunConfig
from valuealign.config.section import Section
from valuealign.errors import ConfigError, nearest

# Sections that a sweep's trial reads anew, and keys of them that stay as the run has them.
SWEPT = ("kto", "distribution", "train")
NOT_SWEPT = (
    "kto.on",
    "distribution.epochs",
    "distribution.learning_rate",
    "distribution.cells_per_step",
    "train.workers",
    "train.cpus_per_worker",
    "train.gpus_per_worker",
    "train.checkpoint_every",
    "train.max_failures",
    "train.log_to",
)
# What says how a run is watched, and makes no other run of it.
WATCHED = {"train": {"log_to"}}


def home() -> Path:
    """Where valuealign keeps what it makes: ``$VALUEALIGN_HOME``, else ``~/.valuealign``."""
    return Path(os.environ.get("VALUEALIGN_HOME") or Path.home() / ".valuealign").absolute()


def load(path: Path | str | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """The run of a YAML file (or of the defaults) with ``section.key=value`` overrides applied.

    Values are read as YAML. Paths in a file are relative to the file, on the command line to the
    working directory; both become absolute. Raises ConfigError naming file, key and the mend.
    """
    tree: dict[str, Any] = {}
    where = "command line"
    if path is not None:
        where = str(path)
        tree = _read(Path(path))
        _anchor_paths(tree, RunConfig, Path(path).absolute().parent)
    for override in overrides:
        _apply(tree, override)
    run = _validate(tree, where, [override.partition("=")[0] for override in overrides])
    check_space(run)
    return run


def describe() -> str:
    """Every key with its default and meaning, one a line."""
    return "\n".join(f"  {key:28} {default!s:22} {text}" for key, default, text in keys(RunConfig))


def dump(config: RunConfig) -> str:
    """The resolved run as YAML that ``load`` reads back to an equal run."""
    return _yaml(config.model_dump(mode="json"))


def dump_identity(config: RunConfig) -> str:
    """What of ``dump`` makes it this run and no other: where its curves are kept does not."""
    return _yaml(config.model_dump(mode="json", exclude=WATCHED))


def _yaml(tree: Mapping[str, Any]) -> str:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def with_keys(config: RunConfig, values: Mapping[str, object]) -> RunConfig:
    """The run with other values of some keys, each as ``section.key``. Raises ConfigError as ``load`` does."""
    tree = config.model_dump()
    for key, value in values.items():
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.get(section, {})
            if not isinstance(node, dict):
                raise ConfigError(f"unknown key '{key}'", where=key, mend=_nearest_key(key))
        if name not in node:
            raise ConfigError(f"unknown key '{key}'", where=key, mend=_nearest_key(key))
        node[name] = value
    return _validate(tree, ", ".join(values), [])


def check_space(config: RunConfig) -> None:
    """Refuse a search space with keys that a trial cannot set, or with values outside what a key takes.

    Raises ConfigError naming the key and the mend.
    """
    for key, axis in config.sweep.space.also.items():
        where = f"sweep.space.also.{key}"
        section, _, name = key.partition(".")
        if not name or key not in {known for known, _, _ in keys(RunConfig)}:
            raise ConfigError(f"unknown key '{key}'", where=where, mend=_nearest_key(key))
        if section not in SWEPT or key in NOT_SWEPT:
            mend = f"sweep keys of {', '.join(SWEPT)}, but {', '.join(NOT_SWEPT)}"
            raise ConfigError(f"a trial cannot set '{key}': it is the same for all trials", where=where, mend=mend)
        # A value in between too: of whole numbers the ends alone would pass.
        span = (*axis.span, axis.span[0] + (axis.span[1] - axis.span[0]) / math.e) if axis.span else ()
        for value in (*axis.choices, *span):
            try:
                with_keys(config, {key: value})
            except ConfigError as error:
                mend = "keep to what the key takes (--help)" + ("; whole numbers: give choices" if axis.span else "")
                shown = f"{value:g}" if isinstance(value, float) else repr(value)
                what = f"{shown} is outside what '{key}' takes: {error.what}"
                raise ConfigError(what, where=where, mend=mend) from None


def differences(there: str, now: str) -> list[str]:
    """Which keys two ``dump``s have other values for, in words: "kto.beta: 0.1 there, 0.2 now".

    Keys that make no other run (``dump_identity``) are left out.
    """
    one, other = (dict(_flat(yaml.safe_load(text))) for text in (there, now))
    watched = {f"{section}.{name}" for section, names in WATCHED.items() for name in names}
    both = [key for key in dict.fromkeys([*one, *other]) if key not in watched]
    return [f"{key}: {one.get(key)} there, {other.get(key)} now" for key in both if one.get(key) != other.get(key)]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration ({error.strerror})", where=str(path), mend="name an existing YAML file"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError("the configuration is not UTF-8 text", where=str(path), mend="save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(
            f"not valid YAML: {getattr(error, 'problem', error)}",
            where=f"{path}{line}",
            mend="check indentation and colons",
        ) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError("a configuration is a mapping of sections", where=str(path), mend="write 'section:' lines")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"'{override}' is no override", where="command line", mend="write section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(
            f"cannot read the value of '{key}'", where="command line", mend="quote it as in YAML"
        ) from None
    *sections, name = key.split(".")
    node = tree
    schema: type[Section] = RunConfig
    for section in sections:
        if section not in schema.model_fields:
            raise ConfigError(f"unknown key '{key}'", where="command line", mend=_nearest_key(key))
        inner = node.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"'{section}' is no section", where="command line", mend=_nearest_key(key))
        node, schema = inner, _section(schema, section)
    if name not in schema.model_fields:
        raise ConfigError(f"unknown key '{key}'", where="command line", mend=_nearest_key(key))
    if key == "model.path" and isinstance(value, str) and Path(value).is_dir():
        value = str(Path(value).absolute())
    node[name] = str(Path(value).absolute()) if _is_path(schema, name) and isinstance(value, str) else value


def _section(schema: type[Section], name: str) -> type[Section]:
    kind = schema.model_fields[name].annotation
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind
    raise ConfigError(f"'{name}' has no keys of its own", where="command line", mend=f"write {name}=value")


def _is_path(schema: type[Section], name: str) -> bool:
    field = schema.model_fields.get(name)
    return field is not None and "Path" in str(field.annotation)


def _anchor_paths(tree: dict[str, Any], schema: type[Section], base: Path) -> None:
    """Make the relative paths of a file absolute, seen from the file's folder."""
    for name, value in tree.items():
        if isinstance(value, dict) and name in schema.model_fields:
            kind = schema.model_fields[name].annotation
            if isinstance(kind, type) and issubclass(kind, Section):
                _anchor_paths(value, kind, base)
        elif isinstance(value, str) and _is_path(schema, name):
            tree[name] = str((base / value).absolute())
    model = tree.get("model") if schema is RunConfig else None
    if isinstance(model, dict) and isinstance(model.get("path"), str) and (base / model["path"]).is_dir():
        model["path"] = str((base / model["path"]).absolute())


def _validate(tree: dict[str, Any], where: str, overridden: Sequence[str]) -> RunConfig:
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if any(f"{key}.".startswith(f"{said}.") for said in overridden):
            where = "command line"
        elif where != "command line" and any(f"{said}.".startswith(f"{key}.") or not key for said in overridden):
            where = f"{where} and command line"  # of a section, or of the whole run: either may have said it
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"unknown key '{key}'", where=where, mend=_nearest_key(key)) from None
        raise ConfigError(
            f"'{key}': {first['msg'].lower()}" if key else first["msg"],
            where=where,
            mend=f"got {first['input']!r}; see --help for what the key takes",
        ) from None


def _nearest_key(key: str) -> str:
    known = [name for name, _, _ in keys(RunConfig)]
    last = key.rsplit(".", 1)[-1]
    same_name = [name for name in known if name.rsplit(".", 1)[-1] == last]
    return f"did you mean {' or '.join(repr(name) for name in same_name)}?" if same_name else nearest(key, known)


def keys(schema: type[Section], prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every key of a section with its default and meaning, inner sections' keys with their section before them."""
    for name, field in schema.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from keys(kind, f"{prefix}{name}.")
        else:
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            shown = yaml.safe_dump(default).split("\n")[0] if default is None or isinstance(default, bool) else default
            yield f"{prefix}{name}", shown, field.description or ""
