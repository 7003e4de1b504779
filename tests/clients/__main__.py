"""`python -m tests.clients`: write the table of docs/clients.md anew."""

from pathlib import Path

from tests.clients.matrix import page

(Path(__file__).resolve().parents[2] / "docs" / "clients.md").write_text(page(), encoding="utf-8")
