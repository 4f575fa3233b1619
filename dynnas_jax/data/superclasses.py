"""Superclasses: disjoint groups of a dataset's classes, as plain data.

A text file of them has a superclass's name in brackets and its classes below, one a line; a line that begins with # is a
comment. The same file names the classes to keep of a larger dataset (`data.class_list`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Groups that come with the library, each of the dataset that its file tells.
KNOWN = ("imagenet10", "imagenet12", "car20", "cifar100", "cifar10", "imagenet100_at32")


class Superclasses(NamedTuple):
    """Groups of the classes 0 to C - 1: every class is in exactly one."""

    names: tuple[str, ...]  # [T]
    groups: tuple[tuple[int, ...], ...]  # [T], the classes of each, ascending

    @property
    def of_class(self) -> np.ndarray:
        """int32[C]: the superclass of every class."""
        found = np.zeros(sum(map(len, self.groups)), np.int32)
        for number, group in enumerate(self.groups):
            found[list(group)] = number
        return found

    @property
    def apart(self) -> np.ndarray:
        """bool[C, C]: for an image of each class (row) the logits of its own superclass."""
        return self.of_class[:, None] == self.of_class[None]

    def number(self, name: str) -> int:
        """The place of a superclass. Raises ValueError for an unknown name (the nearest is named)."""
        if name not in self.names:
            near = difflib.get_close_matches(str(name), self.names, n=1, cutoff=0.0)
            raise ValueError(
                f"superclass {name!r} is unknown, did you mean {near[0]!r}? It is one of {list(self.names)}"
            )
        return self.names.index(name)

    def members(self, names: str | Iterable[str]) -> np.ndarray:
        """bool[T]: a superclass, or a set of several ("a+b", or a list). Raises ValueError as `number`, or for none."""
        names = [part.strip() for part in names.split("+")] if isinstance(names, str) else list(names)
        found = np.zeros(len(self.names), bool)
        found[[self.number(name) for name in names]] = True
        if not found.any():
            raise ValueError(f"a set of superclasses is empty; name at least one of {list(self.names)}")
        return found

    def classes(self, members: np.ndarray) -> np.ndarray:
        """int32[n], ascending: the classes of a set of superclasses bool[T]."""
        return np.flatnonzero(np.asarray(members)[self.of_class]).astype(np.int32)

    def task(self, members: np.ndarray) -> np.ndarray:
        """bool[C, C]: the logits of a set bool[T] for an image of each of its classes; empty rows for all others."""
        inside = np.asarray(members)[self.of_class]
        return inside[:, None] & inside[None]

    def check_images(self, labels: np.ndarray, whose: str) -> None:
        """Raises ValueError where a superclass has none of the images with these labels; `whose` says which these are."""
        images = np.bincount(self.of_class[labels], minlength=len(self.names))
        if not images.all():
            without = self.names[int(images.argmin())]
            raise ValueError(
                f"superclass {without!r} has none of the {len(labels)} {whose} images, and needs one at least"
            )

    def title(self, members: np.ndarray) -> str:
        """How a set bool[T] is written: "a+b"."""
        return "+".join(name for name, member in zip(self.names, members, strict=True) if member)


def of(
    classes: Sequence,
    *,
    known: str | None = None,
    file: str | None = None,
    groups: Mapping[str, Sequence] | None = None,
) -> Superclasses:
    """The superclasses of a dataset's classes, from one of three places.

    Args:
      classes: [C] names.
      known: of `KNOWN`.
      file: a text file (see above).
      groups: the classes of each superclass by its name.

    Raises:
      ValueError: for none or several of the three, an unknown class (the nearest is named), an empty group, a class in two
        groups or in none, or fewer than two groups.
    """
    groups = listed(known=known, file=file, groups=groups)
    numbers = {str(name): number for number, name in enumerate(classes)}
    found, owner = [], {}
    for superclass, own in groups.items():
        if isinstance(own, str) or not isinstance(own, Sequence) or not len(own):
            raise ValueError(f"superclasses: {superclass!r} has no classes; give it a list of them, or leave it out")
        if "+" in superclass:
            raise ValueError(f"superclasses: {superclass!r} has a + in its name, which joins names; leave it out")
        found.append(tuple(sorted(_number(name, superclass, numbers, owner) for name in own)))
    if missing := [name for name in numbers if name not in owner]:
        raise ValueError(f"superclasses: class {missing[0]!r} is in no group ({len(missing)} are not); put it in one")
    if len(found) < 2:
        raise ValueError(f"superclasses: {len(found)} group, must be at least 2")
    return Superclasses(tuple(groups), tuple(found))


def listed(
    *, known: str | None = None, file: str | None = None, groups: Mapping[str, Sequence] | None = None
) -> Mapping[str, Sequence]:
    """The classes of each superclass by its name, from one of the three places of `of`.

    Raises:
      ValueError: for none or several of the three, or what `path_of` and `read` refuse.
    """
    if sum(place is not None for place in (known, file, groups)) != 1:
        raise ValueError("superclasses: give one of known, file and groups")
    if groups is None:
        groups = read(path_of(known) if known is not None else Path(str(file)).expanduser())
    if not isinstance(groups, Mapping):
        raise ValueError(f"superclasses.groups is {groups!r}, must be a dict from names to lists of classes")
    return groups


def _number(name: object, superclass: str, numbers: dict[str, int], owner: dict[str, str]) -> int:
    """The number of a class, which then belongs to a superclass."""
    name = str(name)
    if name not in numbers:
        near = difflib.get_close_matches(name, list(numbers), n=1, cutoff=0.0)
        raise ValueError(
            f"superclasses: {superclass!r} has class {name!r}, none of the data's; did you mean {near[0]!r}?"
        )
    if name in owner:
        raise ValueError(f"superclasses: class {name!r} is in {owner[name]!r} and in {superclass!r}; keep it in one")
    owner[name] = superclass
    return numbers[name]


def path_of(known: str) -> Path:
    """The file of groups that come with the library. Raises ValueError for an unknown name (the nearest is named)."""
    if known not in KNOWN:
        near = difflib.get_close_matches(str(known), KNOWN, n=1, cutoff=0.0)
        raise ValueError(f"superclasses.known is {known!r}, did you mean {near[0]!r}? It is one of {list(KNOWN)}")
    return Path(__file__).with_name(f"superclasses_{known}.txt")


def read(path: Path) -> dict[str, tuple[str, ...]]:
    """The groups of a file by name.

    Raises:
      ValueError: for no such file, a class above the first name, or a name that is used twice.
    """
    if not path.is_file():
        raise ValueError(
            f"superclasses: no file {path}; give a text file with [NAME] and its classes below, one a line"
        )
    groups: dict[str, list[str]] = {}
    for line in (line.strip() for line in path.read_text(encoding="utf-8").splitlines()):
        if not line or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            name = line[1:-1].strip()
            if name in groups:
                raise ValueError(f"{path}: superclass {name!r} is named twice")
            groups[name] = []
        elif not groups:
            raise ValueError(f"{path}: {line!r} stands above the first [NAME]")
        else:
            groups[list(groups)[-1]].append(line)
    return {name: tuple(classes) for name, classes in groups.items()}
