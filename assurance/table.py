"""A table that a campaign publishes beside its one line."""

from aigovtool.codec import Message


class Table(Message):
    """Rows of cells under a head, in Markdown."""

    head: list[str]
    rows: list[list[str]]

    def lines(self) -> list[str]:
        """Return the table's lines of Markdown; a bar in a cell does not end it."""
        return [_line(self.head), _line(["---"] * len(self.head)), *map(_line, self.rows)]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
