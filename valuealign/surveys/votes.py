"""Votes on statements (agree, disagree, pass), as Polis exports them, with a file of the statements' texts.

Layouts and signs are those of Polis's export (compdemocracy.org/export): 1 agrees, -1 disagrees, 0
passes. Its database has the opposite signs, which the export turns round.

Shape letters: ``P`` voters, ``S`` statements, ``V`` votes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError, SurveyError, nearest
from valuealign.surveys import files
from valuealign.surveys.codebook import Codebook, Column, plain_code
from valuealign.surveys.rows import Rows, first_note, first_people, number, read_rows, refuse_keys
from valuealign.surveys.table import Survey
from valuealign.surveys.wordings import plain_words
from valuealign.types import Item, Option

AGREE, DISAGREE, PASS = 0, 1, -1
UNSEEN = np.iinfo(np.int16).min
VOTES = {"1": AGREE, "agree": AGREE, "-1": DISAGREE, "disagree": DISAGREE, "0": PASS, "pass": PASS}
LONG = ("voter-id", "comment-id", "vote")
# Columns of the wide export that are no statements.
ABOUT_VOTERS = ("participant", "xid", "group-id", "n-comments", "n-votes", "n-agree", "n-disagree")
# Columns of the votes table in Polis's database.
DUMP = {"pid", "tid", "vote"}
# Voters times statements (two bytes each).
MOST_ANSWERS = 1_000_000_000
MEND_VOTE = "a vote is 1 or agree, -1 or disagree, 0 or pass"


class _Statement(NamedTuple):
    """A statement's words, whether moderators let it stand, and (agrees, disagrees) where the file counts them."""

    text: str
    stands: bool
    counts: tuple[float, float] | None


@dataclass(frozen=True)
class _Matrix:
    """``vote_PS`` holds AGREE, DISAGREE, PASS or UNSEEN; ``changed`` votes were replaced by a later one."""

    voters: list[str]
    statements: list[str]
    vote_PS: np.ndarray
    changed: int = 0

    def kept(self, voters_P: np.ndarray, statements_S: np.ndarray) -> _Matrix:
        """Without the voters and statements that the masks leave out."""
        return replace(
            self,
            voters=[voter for voter, kept in zip(self.voters, voters_P, strict=True) if kept],
            statements=[name for name, kept in zip(self.statements, statements_S, strict=True) if kept],
            vote_PS=self.vote_PS[voters_P][:, statements_S],
        )


def read(config: SurveyConfig, seed: int) -> Survey:
    """The votes of ``config.file`` on the statements of ``config.statements``; ``seed`` plays no part.

    Votes are long (``voter-id``, ``comment-id``, ``vote``; the last vote on a statement counts, by
    ``timestamp`` where there is one, else by row) or wide (``participant``, then a column for each
    statement, empty where it was not seen). Statements have ``comment-id``, ``comment-body`` and,
    optional, ``moderated`` (-1: left out), ``agrees``, ``disagrees``. Item ``s_7`` is statement 7;
    its options are Agree and Disagree, and passing is the outcome ``pass``, apart from the shares.
    Statements of the same words are one family. ``config.rows`` keeps the first voters.

    Raises SurveyError where a file is not named, ConfigError for a key that means nothing here, and
    AnswerError (file, column, line, the mend) for the data.
    """
    refuse_keys(config, ("codebook", "weight", "waves"))
    if config.file is None or config.statements is None:
        lacking = "file" if config.file is None else "statements"
        mend = "name the votes in survey.file and the statements' texts in survey.statements"
        raise SurveyError(f"reader votes needs survey.{lacking}", where=f"survey.{lacking}", mend=mend)
    statements = _statements(read_rows(config.statements))
    table = files.load(config.file)
    matrix = _matrix(table)
    _check_known(matrix.statements, statements, config.file, config.statements)
    _check_signs(matrix, statements, config.file, config.statements)
    matrix, notes = _used(matrix, statements, config.file)
    items = _items(matrix.statements, statements)
    votes = [
        pl.Series(item.id, column).set(pl.Series(column == UNSEEN), None)
        for item, column in zip(items, np.ascontiguousarray(matrix.vote_PS.T), strict=True)
    ]
    people = pl.DataFrame(
        [pl.Series("person", matrix.voters), pl.Series("weight", np.ones(len(matrix.voters))), *votes]
    )
    book = Codebook(
        name=config.file.stem,
        title=config.file.stem.replace("_", " "),
        items=items,
        traits=(),
        where=str(config.statements),
        columns={
            item.id: Column(name, VOTES, frozenset()) for item, name in zip(items, matrix.statements, strict=True)
        },
        outcomes=("pass",),
    )
    cut = first_note(people, config)
    return Survey(book, first_people(people, items, config), notes=(*notes, *([cut] if cut else [])))


def _statements(rows: Rows) -> dict[str, _Statement]:
    """Statement id -> what the file says of it."""
    rows.need(("comment-id", "comment-body"), "a file of statements names each and gives its words")
    found: dict[str, _Statement] = {}
    for row in range(rows.height):
        name = plain_code(rows.text("comment-id", row))
        if name in found:
            where = rows.where(row, "comment-id")
            raise AnswerError(f"the statement '{name}' stands a second time", where=where, mend="keep one of them")
        text = " ".join(rows.text("comment-body", row).split())
        agrees, disagrees = (number(rows.value(column, row)) for column in ("agrees", "disagrees"))
        counts = None if agrees is None or disagrees is None else (agrees, disagrees)
        found[name] = _Statement(text, _stands(rows, row), counts)
    return found


def _stands(rows: Rows, row: int) -> bool:
    """Moderated 1 (accepted), 0 or nothing (not judged), -1 (rejected)."""
    said = str(rows.value("moderated", row) or "0").strip()
    if number(said) not in (-1.0, 0.0, 1.0):
        where = rows.where(row, "moderated")
        raise AnswerError(f"'{said}' is no moderation", where=where, mend="1 accepted, 0 not judged, -1 rejected")
    return number(said) != -1


def _matrix(table: files.Table) -> _Matrix:
    """The votes of a long or a wide file."""
    names = {name.lower().replace("_", "-"): name for name in table.frame.columns}
    where = str(table.layout.path)
    if set(names) >= DUMP:
        raise AnswerError(
            "this is the votes table of a Polis database, where -1 agrees and 1 disagrees",
            where=where,
            mend="use the export (votes.csv); or turn the signs of 'vote' and call pid voter-id, tid comment-id",
        )
    if "participant" in names:
        return _wide(table, names["participant"])
    for name in LONG:
        if name not in names:
            why = f"votes are {', '.join(LONG)}; or participant and a column for each statement"
            raise AnswerError(f"no column '{name}' ({why})", where=where, mend=nearest(name, names))
    return _long(table, *(names[name] for name in LONG), time=names.get("timestamp"))


def _long(table: files.Table, voter: str, statement: str, vote: str, *, time: str | None) -> _Matrix:
    voters, voter_V = _ids(table, voter)
    statements, statement_V = _ids(table, statement)
    _check_size(len(voters), len(statements), table.layout.path)
    vote_V = _votes(table, vote)
    if (vote_V == UNSEEN).any():
        where = table.where(vote, int((vote_V == UNSEEN).argmax()))
        raise AnswerError("the vote is empty", where=where, mend=f"{MEND_VOTE}; delete the line where there is none")
    order = _order(table, time)
    vote_PS = np.full((len(voters), len(statements)), UNSEEN, dtype=np.int16)
    # Where one place is named several times, the last value stays.
    vote_PS[voter_V[order], statement_V[order]] = vote_V[order]
    return _Matrix(voters, statements, vote_PS, changed=len(vote_V) - int((vote_PS != UNSEEN).sum()))


def _wide(table: files.Table, voter: str) -> _Matrix:
    voters, voter_P = _ids(table, voter)
    if len(voters) < len(voter_P):
        twice = int(np.flatnonzero(np.bincount(voter_P) > 1)[0])
        where = table.where(voter, int(np.flatnonzero(voter_P == twice)[1]))
        raise AnswerError(f"'{voters[twice]}' has a second row", where=where, mend="keep one row for each voter")
    about = [name for name in table.frame.columns if name.lower().replace("_", "-") in ABOUT_VOTERS]
    columns = {plain_code(name): name for name in table.frame.columns if name not in about}
    statements = sorted(columns, key=_by_number)
    _check_size(len(voters), len(statements), table.layout.path)
    vote_PS = np.full((len(voters), len(statements)), UNSEEN, dtype=np.int16)
    for s, name in enumerate(statements):
        vote_PS[voter_P, s] = _votes(table, columns[name])
    return _Matrix(voters, statements, vote_PS)


def _by_number(name: str) -> tuple[int, str]:
    """Sorts 9 before 10."""
    return len(name), name


def _ids(table: files.Table, column: str) -> tuple[list[str], np.ndarray]:
    """The distinct ids, sorted, and each row's place among them."""
    texts, index_V = table.codes(column)
    ids = sorted({texts[place] for place in np.unique(index_V)}, key=_by_number)
    if "" in ids:
        empty = [place for place, text in enumerate(texts) if text == ""]
        where = table.where(column, int(np.isin(index_V, empty).argmax()))
        raise AnswerError("the id is empty", where=where, mend="fill it in, or delete the line")
    places = {name: place for place, name in enumerate(ids)}
    return ids, np.array([places.get(text, -1) for text in texts])[index_V]


def _votes(table: files.Table, column: str) -> np.ndarray:
    """Each row's vote; UNSEEN where nothing stands."""
    texts, index_V = table.codes(column)
    known = {**VOTES, "": UNSEEN}
    unknown = [place for place, text in enumerate(texts) if text.lower() not in known]
    strange_V = np.isin(index_V, unknown)
    if strange_V.any():
        first = int(strange_V.argmax())
        more = f" ({strange_V.sum()} such votes)" if strange_V.sum() > 1 else ""
        where = table.where(column, first)
        raise AnswerError(f"'{texts[index_V[first]]}' is no vote{more}", where=where, mend=MEND_VOTE)
    return np.asarray(np.array([known.get(text.lower(), UNSEEN) for text in texts], dtype=np.int16)[index_V])


def _order(table: files.Table, time: str | None) -> np.ndarray:
    """The rows by time, those of the same time in the file's order."""
    if time is None:
        return np.arange(table.frame.height)
    time_V = table.numbers(time)
    if not np.isfinite(time_V).all():
        where = table.where(time, int((~np.isfinite(time_V)).argmax()))
        mend = "give every vote a number; or take the column out: the later row then counts"
        raise AnswerError("the timestamp is no number", where=where, mend=mend)
    return np.argsort(time_V, kind="stable")


def _check_size(voters: int, statements: int, path: Path) -> None:
    if voters * statements > MOST_ANSWERS:
        what = f"{voters:,} voters times {statements:,} statements are more than can be held"
        raise AnswerError(what, where=str(path), mend="check that the columns of voters and statements are right")


def _check_known(voted: Collection[str], statements: Mapping[str, _Statement], votes: Path, texts: Path) -> None:
    unknown = [name for name in voted if name not in statements]
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise AnswerError(
            f"the statement '{unknown[0]}'{more} has no words", where=str(votes), mend=f"add it to {texts}"
        )


def _check_signs(matrix: _Matrix, statements: Mapping[str, _Statement], votes: Path, texts: Path) -> None:
    """The statements' own counts of agrees and disagrees, where given, tell whether the signs are turned round."""
    counted = [(s, statements[name].counts) for s, name in enumerate(matrix.statements)]
    said = np.array([(s, *counts) for s, counts in counted if counts is not None])
    if not len(said):
        return
    vote_PC = matrix.vote_PS[:, said[:, 0].astype(int)]
    agree_C, disagree_C = ((vote_PC == kind).sum(axis=0) for kind in (AGREE, DISAGREE))
    as_read = np.abs(agree_C - said[:, 1]).sum() + np.abs(disagree_C - said[:, 2]).sum()
    turned = np.abs(disagree_C - said[:, 1]).sum() + np.abs(agree_C - said[:, 2]).sum()
    if turned < as_read / 2:
        raise AnswerError(
            f"the votes fit the counts 'agrees' and 'disagrees' of {texts} only with their signs turned round",
            where=str(votes),
            mend="1 agrees and -1 disagrees: turn the signs; or, if the counts are wrong, take those columns out",
        )


def _used(matrix: _Matrix, statements: Mapping[str, _Statement], path: Path) -> tuple[_Matrix, list[str]]:
    """Without rejected statements, those that nobody took a side on, and voters who have no vote left."""
    stands_S = np.array([statements[name].stands for name in matrix.statements])
    sided_S = (matrix.vote_PS >= 0).any(axis=0)
    seen_P = (matrix.vote_PS[:, stands_S & sided_S] != UNSEEN).any(axis=1)
    if not seen_P.any():
        mend = "check the columns, and 'moderated' of the statements"
        raise AnswerError("nobody agrees or disagrees with any statement that stands", where=str(path), mend=mend)
    silent = sum(entry.stands for entry in statements.values()) - int((stands_S & sided_S).sum())
    found = {
        "statements that moderators rejected were left out": sum(not entry.stands for entry in statements.values()),
        "statements that nobody agreed or disagreed with were left out": silent,
        "voters without a vote on the statements that are left were left out": int((~seen_P).sum()),
        "votes on a statement voted on again later were replaced": matrix.changed,
    }
    notes = [
        "voters came by themselves and saw the statements that they were shown: shares speak for those who voted",
        "passing is the outcome 'pass'; a statement that was not seen is missing",
        *(f"{count:,} {what}" for what, count in found.items() if count),
    ]
    return matrix.kept(seen_P, stands_S & sided_S), notes


def _items(names: Sequence[str], statements: Mapping[str, _Statement]) -> tuple[Item, ...]:
    """An item for each statement; those of the same words are a family, named after the first."""
    same: dict[str, list[str]] = {}
    for name in names:
        same.setdefault(plain_words(statements[name].text), []).append(name)
    family = {name: f"s_{alike[0]}" for alike in same.values() if len(alike) > 1 for name in alike}
    options = (Option(1, "Agree", 1.0), Option(-1, "Disagree", 0.0))
    return tuple(Item(f"s_{name}", statements[name].text, options, family=family.get(name, "")) for name in names)
