"""The text that the demo learns, and its symbols.

Every CPython carries some 400,000 characters of English: the language reference that `help()`
shows. It differs a little from version to version, so nothing here depends on its length.
"""

from __future__ import annotations

from dataclasses import dataclass
from pydoc_data.topics import topics

import numpy as np
import numpy.typing as npt

Symbols = npt.NDArray[np.intp]

UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # how symbol 0 is shown


@dataclass(frozen=True)
class Vocabulary:
    """The symbols: number k > 0 is ``characters[k - 1]``, number 0 any other character."""

    characters: str

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """Return the vocabulary of a text: its characters in the order of their code points."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        """Return the number of symbols, the unknown one included."""
        return len(self.characters) + 1

    def encode(self, text: str) -> Symbols:
        """Return the symbols of a text.

        Examples
        --------
        >>> Vocabulary("ab").encode("abba?")
        array([1, 2, 2, 1, 0])
        """
        number = {character: k for k, character in enumerate(self.characters, start=1)}
        return np.array([number.get(character, 0) for character in text], dtype=np.intp)

    def decode(self, symbols: Symbols) -> str:
        """Return the text of symbols; the unknown one is shown as a replacement character.

        Examples
        --------
        >>> Vocabulary("ab").decode(np.array([2, 1, 2]))
        'bab'
        """
        characters = UNKNOWN + self.characters
        return "".join(characters[k] for k in symbols)


def read_text() -> str:
    """Return all topics of `help()`, in the order of their names."""
    return "\n\n".join(topics[name] for name in sorted(topics))


def split(text: str) -> tuple[str, str]:
    """Return the first 90% of a text, to train on, and the last 10%, to test on."""
    border = len(text) * 9 // 10
    return text[:border], text[border:]
