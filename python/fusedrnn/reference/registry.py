"""The list of cells. A new cell is a new file and one line here."""

from __future__ import annotations

from .cell import Cell
from .gru import GRU
from .lstm import LSTM
from .rnn import RNN_RELU, RNN_TANH

CELLS: dict[str, Cell] = {cell.name: cell for cell in (LSTM, GRU, RNN_TANH, RNN_RELU)}


def find_cell(name: str) -> Cell:
    """Return the cell of that name.

    Raises
    ------
    ValueError
        If there is none.

    Examples
    --------
    >>> find_cell("gru").gates
    ('r', 'z', 'n')
    """
    if name not in CELLS:
        raise ValueError(f"cell: expected one of {', '.join(CELLS)}, got {name!r}")
    return CELLS[name]
