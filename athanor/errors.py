"""The one error type a person sees: what is wrong, where, and what would be right."""

from __future__ import annotations


class AthanorError(Exception):
    """Bad input, named. The command line prints it without a traceback and exits with status 2.

    ``what``  says what is wrong, ``where`` names the file, key, line or rank, ``fix`` says what would be right.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(self.__str__())

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        fix = f"\n  → {self.fix}" if self.fix else ""
        return f"{where}{self.what}{fix}"


class MissingLibrary(AthanorError):
    """A library that is not installed: no fault of the document at hand, so nothing goes on as if it were."""
