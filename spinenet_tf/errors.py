"""The error a person caused, and how a command reports it."""

from __future__ import annotations

import sys
from typing import Callable, NoReturn


class UserError(ValueError):
  """Bad input: the text says the value seen, the rule it breaks, and what to change."""


def run_command(main: Callable[[list[str]], int | None]) -> NoReturn:
  """Runs a command's `main(argv)` under absl and exits with its code.

  A `UserError` becomes one line on stderr and exit code 2, without a traceback: the text already says what to do.

  Args:
    main: takes the arguments left after flag parsing (program name first), returns an exit code or None for 0.
  """
  from absl import app

  def guarded(argv: list[str]) -> int:
    try:
      return main(argv) or 0
    except UserError as error:
      print(f"error: {error}", file=sys.stderr)
      return 2

  app.run(guarded)
  raise SystemExit(0)  # not reached: app.run exits
