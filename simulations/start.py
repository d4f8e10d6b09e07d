"""`edgecache-sim`: where it begins, before what it needs is imported."""

from __future__ import annotations

from ..node.cli import ending_at_once


def main() -> int:
    """Run the command line; 130 if it is interrupted while it imports, too."""
    with ending_at_once():
        from .cli import main as run
    return run()
