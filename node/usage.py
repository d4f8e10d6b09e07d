"""Command lines whose wrong usage is explained in one line."""

from __future__ import annotations

import argparse
from typing import NoReturn

from .logs import escaped

WRONG_USAGE = 2


class OneLineParser(argparse.ArgumentParser):
    """argparse prints a page of usage before it says what is wrong; this one says that alone, and where the page is."""

    def error(self, message: str) -> NoReturn:
        """What is wrong with the arguments; SystemExit(2)."""
        self.exit(WRONG_USAGE, f"{self.prog}: {escaped(message)} (see {self.prog} --help)\n")
