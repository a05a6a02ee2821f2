"""The tree of errors: drawn truly, told fully, and whole after crossing a process border."""

from __future__ import annotations

import pickle
import re

import pytest

from valuealign import errors
from valuealign.errors import ValuealignError, nearest


def tree(kind: type[ValuealignError], depth: int = 0) -> list[tuple[int, str]]:
    branches = [line for child in kind.__subclasses__() for line in tree(child, depth + 1)]
    return [(depth, kind.__name__), *branches]


KINDS = [getattr(errors, name) for _, name in tree(ValuealignError) if hasattr(errors, name)]


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    drawn = [
        (len(indent) // 4, name)
        for indent, name in re.findall(r"^ {0,4}([│├└─ ]*)(\w+) {2,}\S", errors.__doc__ or "", flags=re.MULTILINE)
    ]
    assert len(drawn) > 10
    assert drawn == tree(ValuealignError)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_says_what_where_and_the_mend(kind: type[ValuealignError]) -> None:
    error = kind("unknown code 7", where="people.csv, column Q2_1, line 12", mend="add it to the codebook")
    told = str(error)
    assert told.index("people.csv") < told.index("unknown code 7") < told.index("mend: add it")
    assert str(kind("only what")) == "only what"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_crosses_processes_whole(kind: type[ValuealignError]) -> None:
    error = kind("what", where="where", mend="mend")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert (back.what, back.where, back.mend, str(back)) == (error.what, error.where, error.mend, str(error))


def test_every_error_has_a_meaning() -> None:
    assert all(kind.__doc__ for kind in KINDS)
    meanings = [kind.__doc__ for kind in KINDS]
    assert len(set(meanings)) == len(meanings)


def test_nearest_names_one_or_lists_all() -> None:
    assert nearest("betta", ["beta", "lambda_d"]) == "did you mean 'beta'?"
    assert nearest("zzz", ["beta", "alpha"]) == "known: alpha, beta"
    assert nearest("zzz", iter(["b", "a"])) == "known: a, b", "any iterable"
