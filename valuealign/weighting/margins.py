"""Known shares of the population, read from a CSV file."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from valuealign.errors import WeightingError

# Shares of a trait must sum to 1 this closely.
SHARE_TOLERANCE = 1e-6
# Parts the traits of a joint margin, and their levels.
JOINT = " & "


@dataclass(frozen=True)
class Margins:
    """Known population shares: ``shares[trait][level]``, summing to 1 for each trait.

    A joint margin is written ``age & sex`` with the levels ``18-34 & f``. The shares of a trait in
    ``several`` (a person may be in more than one of its levels) are each a share of everybody and
    need not sum to 1. ``where`` names the file they come from and ``lines[trait, level]`` the
    line, for messages.
    """

    shares: Mapping[str, Mapping[str, float]]
    where: str = "margins"
    lines: Mapping[tuple[str, str], int] = field(default_factory=dict, compare=False)

    @classmethod
    def read(cls, path: Path | str, *, several: frozenset[str] = frozenset()) -> Margins:
        """Read a CSV with the columns ``trait,level,share``.

        Raises WeightingError, with the line, for a file that cannot be read, a wrong header, a
        share that is not in (0, 1], a level named twice, or shares that do not sum to 1 within
        1e-6 (but for the traits in ``several``).
        """
        shares: dict[str, dict[str, float]] = {}
        lines: dict[tuple[str, str], int] = {}
        for line, (trait, level, text) in csv_rows(Path(path), "trait,level,share", "margins"):
            where = f"{path}, line {line}"
            trait = _spaced(trait)
            level = _spaced(level) if len(traits_of(trait)) > 1 else level
            if len(set(traits_of(trait))) < len(traits_of(trait)):
                mend = "name each trait of a joint margin once"
                raise WeightingError(f"'{trait}' names a trait twice", where=where, mend=mend)
            if (trait, level) in lines:
                mend = f"keep one of line {lines[trait, level]} and line {line}"
                raise WeightingError(f"'{trait}' has the level '{level}' twice", where=where, mend=mend)
            shares.setdefault(trait, {})[level] = _share(text, where)
            lines[trait, level] = line
        if not shares:
            raise WeightingError("no margins", where=str(path), mend="add lines such as 'sex,female,0.51'")
        for trait, levels in shares.items():
            if trait not in several:
                last = max(line for (name, _), line in lines.items() if name == trait)
                check_sum(trait, levels, f"{path}, line {last}")
        return cls(shares, str(path), lines)

    def place(self, trait: str, level: str = "") -> str:
        """Where a level of a margin stands, or the margin's first line, for messages."""
        line = self.lines.get((trait, level)) or min(
            (n for (name, _), n in self.lines.items() if name == trait), default=0
        )
        return f"{self.where}, line {line}" if line else self.where


def traits_of(margin: str) -> tuple[str, ...]:
    """The traits of a margin: ``age & sex`` has two."""
    return tuple(margin.split(JOINT))


def check_sum(trait: str, levels: Mapping[str, float], where: str) -> None:
    """Raises WeightingError unless the shares of a trait sum to 1."""
    total = math.fsum(levels.values())
    if abs(total - 1) > SHARE_TOLERANCE:
        raise WeightingError(
            f"the shares of '{trait}' sum to {total:.6f}, not to 1",
            where=where,
            mend="shares are fractions of the population, such as 0.51; mend the lines of this trait",
        )


def csv_rows(path: Path, header: str, what: str) -> list[tuple[int, list[str]]]:
    """The stripped values of each filled line, with its number.

    Raises WeightingError for a file that cannot be read, another header or a line of another length.
    """
    rows: list[tuple[int, list[str]]] = []
    wanted = header.split(",")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            found = ",".join(name.strip() for name in next(reader, []))
            if found != header:
                mend = f"begin with the line {header}"
                raise WeightingError(f"the header is '{found}'", where=f"{path}, line 1", mend=mend)
            for row in reader:
                if not any(part.strip() for part in row):
                    continue
                if len(row) != len(wanted):
                    raise WeightingError(
                        f"{len(row)} values instead of {len(wanted)}",
                        where=f"{path}, line {reader.line_num}",
                        mend=f"write {header}; put a value that has a comma in quotes",
                    )
                rows.append((reader.line_num, [part.strip() for part in row]))
    except OSError as error:
        raise WeightingError(
            f"cannot read the {what} ({error.strerror})", where=str(path), mend="name an existing CSV file"
        ) from None
    except (UnicodeDecodeError, csv.Error):
        raise WeightingError(
            f"the {what} are not UTF-8 CSV text", where=str(path), mend="save them as UTF-8 CSV"
        ) from None
    return rows


def _spaced(text: str) -> str:
    return JOINT.join(part.strip() for part in re.split(r"\s*&\s*", text))


def _share(text: str, where: str) -> float:
    try:
        share = float(text)
    except ValueError:
        raise WeightingError(f"'{text}' is no share", where=where, mend="write a fraction such as 0.51") from None
    if not 0 < share <= 1:
        mend = "write a fraction above 0 and at most 1; leave out levels that nobody has"
        raise WeightingError(f"a share of {text}", where=where, mend=mend)
    return share
