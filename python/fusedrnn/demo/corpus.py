"""The text that the demo learns, and its symbols: characters or words.

Every CPython carries some 400,000 characters of English: the language reference that `help()`
shows. It differs a little from version to version, so nothing here depends on its length.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pydoc_data.topics import topics

import numpy as np
import numpy.typing as npt

Symbols = npt.NDArray[np.intp]

UNITS = ("character", "word")
UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # how symbol 0 is shown

# A word or a run of one mark, each with the space before it if there is one; or a break.
WORDS = re.compile(r"\n\n| ?\w+| ?([^\w\s])\1*| ")
SPACE = re.compile(r"\s+")
RULE = re.compile(r"([^\w\s])\1{3,}")


def tokens(text: str, unit: str) -> list[str]:
    r"""Return the characters or words of a text, one after the other.

    Joined they are the text again; with words, without what `plain` takes away.

    Examples
    --------
    >>> tokens('The  "for"\n loop ...\n\n=======', "word")
    ['The', ' "', 'for', '"', ' loop', ' ...', '\n\n', '===']
    """
    if unit == "character":
        return list(text)
    return [match.group() for match in WORDS.finditer(plain(text))]


def plain(text: str) -> str:
    """Return a text without its layout: paragraphs in one line, single spaces, short rules."""
    text = SPACE.sub(lambda space: "\n\n" if space.group().count("\n") > 1 else " ", text)
    return RULE.sub(r"\1\1\1", text)


@dataclass(frozen=True)
class Vocabulary:
    """The symbols: number k > 0 is ``known[k - 1]``, number 0 any other character or word."""

    unit: str
    known: tuple[str, ...]

    @classmethod
    def of(cls, text: str, unit: str, least: int = 1) -> Vocabulary:
        """Return the characters or words that occur in a text so often at least."""
        counts = Counter(tokens(text, unit))
        return cls(unit, tuple(sorted(t for t, count in counts.items() if count >= least)))

    def __len__(self) -> int:
        """Return the number of symbols, the unknown one included."""
        return len(self.known) + 1

    def encode(self, text: str) -> Symbols:
        """Return the symbols of a text.

        Examples
        --------
        >>> Vocabulary("character", ("a", "b")).encode("abba?")
        array([1, 2, 2, 1, 0])
        """
        number = {token: k for k, token in enumerate(self.known, start=1)}
        return np.array([number.get(token, 0) for token in tokens(text, self.unit)], dtype=np.intp)

    def decode(self, symbols: Symbols) -> str:
        """Return the text of symbols; the unknown one is shown as a replacement character.

        Examples
        --------
        >>> Vocabulary("word", (" b", "a")).decode(np.array([2, 1, 1]))
        'a b b'
        """
        shown = (UNKNOWN if self.unit == "character" else f" {UNKNOWN}", *self.known)
        return "".join(shown[k] for k in symbols)


@dataclass(frozen=True)
class Corpus:
    """The text as symbols."""

    vocabulary: Vocabulary
    train: Symbols
    test: Symbols
    hash: str  # of the text

    @classmethod
    def read(cls, unit: str, least: int = 1) -> Corpus:
        """Return the text in the symbols of its first part, which occur so often at least."""
        return cls.read_as(Vocabulary.of(split(read_text())[0], unit, least))

    @classmethod
    def read_as(cls, vocabulary: Vocabulary) -> Corpus:
        """Return the text in the symbols of a vocabulary."""
        text = read_text()
        train, test = (vocabulary.encode(part) for part in split(text))
        return cls(vocabulary, train, test, hashlib.sha256(text.encode()).hexdigest())


def read_text() -> str:
    """Return all topics of `help()`, in the order of their names."""
    return "\n\n".join(topics[name] for name in sorted(topics))


def split(text: str) -> tuple[str, str]:
    """Return the first 90% of a text, to train on, and the last 10%, to test on."""
    border = len(text) * 9 // 10
    return text[:border], text[border:]
