"""docs/cluster.md names commands and options that exist, and the line that it types is cluster.yaml's."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from conftest import ROOT

TEXT = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
# Programs of the system, whose options are not ours to check.
SYSTEM = {"cd", "git", "sudo", "ssh", "scp", "rsync", "chmod", "mkdir", ".", "eval", "export", "nvidia-smi"}
KNOWN = {*SYSTEM, "make", "python", "ray"}


def typed() -> Iterator[str]:
    """Every command of an indented block or, where it begins with one of ours, between backticks."""
    for block in re.findall(r"(?:^    .*\n)+", TEXT, flags=re.MULTILINE):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`((?:ray|python|make) [^`]+)`", TEXT)


def simple_commands() -> list[list[str]]:
    """The words of each, without variables set before it; what another shell runs counts too."""
    found: list[list[str]] = []
    lines = [line.strip() for line in typed()]
    while lines:
        line = lines.pop(0)
        lines += re.findall(r"\$\(([^)]*)\)", line)
        words = shlex.split(line.replace("<the repository>", "REPOSITORY"), comments=True)
        command: list[str] = []
        for word in [*words, "&&"]:
            if word in ("&&", "&", ">"):
                if command:
                    found.append(command)
                command = []
            elif command or not re.match(r"[A-Z_]+=", word):
                command.append(word)
            if " && " in word:
                lines.append(word)
        if ">" in words:
            found.pop()  # the file that it writes
    return [command for command in found if command != ["preflight.json"]]


COMMANDS = simple_commands()


def test_the_reader_sees_the_commands() -> None:
    assert len(COMMANDS) > 50
    assert {command[0] for command in COMMANDS} <= KNOWN, sorted({c[0] for c in COMMANDS} - KNOWN)
    assert ["ray", "job", "submit", "--", "python", "jobs/sweep_kto.py"] in COMMANDS
    assert ["python", "-m", "valuealign.cluster.env"] in COMMANDS and ["ray", "status"] in COMMANDS
    assert any("--min-worker-port=20002" in command for command in COMMANDS), "continued lines are read"


def ray_command(words: list[str]) -> tuple[Any, list[str]]:
    """Ray's own command, and the words after it."""
    from ray.scripts.scripts import cli

    command: Any = cli
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("words", [c for c in COMMANDS if c[0] == "ray"], ids=" ".join)
def test_ray_has_the_command_and_its_options(words: list[str]) -> None:
    command, rest = ray_command(words[1:])
    assert not hasattr(command, "commands"), f"no such command: {' '.join(words)}"
    own = rest[: rest.index("--")] if "--" in rest else rest
    options = {option for parameter in command.params for option in parameter.opts}
    unknown = {word.partition("=")[0] for word in own if word.startswith("--")} - options
    assert not unknown, f"{' '.join(words[:3])} has no {unknown}"
    if "--" in rest:
        inner = rest[rest.index("--") + 1 :]
        assert inner[0] == "python" and (ROOT / inner[1]).is_file()


OWN = [c[c.index("python") :] for c in COMMANDS if "python" in c]


@pytest.mark.parametrize("words", OWN, ids=" ".join)
def test_our_jobs_and_modules_have_what_is_typed(words: list[str]) -> None:
    if words[1] == "-m":
        assert importlib.util.find_spec(words[2]) is not None
        return
    source = (ROOT / words[1]).read_text(encoding="utf-8") + (ROOT / "jobs" / "_job.py").read_text(encoding="utf-8")
    for word in words[2:]:
        if word.startswith("-") and word != "--help":
            assert f'"{word}"' in source, f"{words[1]} has no {word}"


def test_make_has_what_is_typed() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    asked = {word for command in COMMANDS if command[0] == "make" for word in command[1:]}
    assert "setup" in asked
    for word in asked:
        name, is_variable, _ = word.partition("=")
        assert re.search(rf"^{name} \?=" if is_variable else rf"^{name}:", text, flags=re.MULTILINE), word


def test_options_named_in_words_are_ray_s() -> None:
    command, _ = ray_command(["start"])
    options = {option for parameter in command.params for option in parameter.opts}
    table = TEXT.partition("### Firewall")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(--[a-z-]+)`", table))
    assert len(named) == 6 and named <= options


def test_section_2_starts_the_head_as_cluster_yaml_does() -> None:
    line = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))["head_start_ray_commands"][-1]
    (typed_here,) = [c for c in COMMANDS if c[:3] == ["ray", "start", "--head"] and "--num-gpus=4" in c]
    assert set(typed_here) <= set(shlex.split(line)), "what the document types, the file types too"
    section = TEXT.partition("## 2.")[2].partition("## 3.")[0]
    for step in ("cd ~/valuealign", ". .venv/bin/activate", 'eval "$(python -m valuealign.cluster.env)"'):
        assert f"    {step}\n" in section and step in line
