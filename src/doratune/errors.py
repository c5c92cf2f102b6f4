"""Every error doratune raises on purpose, and the exit code the command line gives it.

    DoratuneError                    1   anything below, when nothing more specific fits
    ├── ConfigError(ValueError)      2   a recipe or an option is wrong; all problems of a file at once
    ├── DataError(ValueError)        3   an example, a data file or a split is wrong
    ├── VerificationError            4   merged and sidecar models differ by more than is allowed
    ├── DependencyError(ImportError) 5   an optional package is missing
    ├── AdapterError(ValueError)     6   an adapter is incomplete, malformed or made for another base
    ├── ModelError(ValueError)       7   a base model cannot be had, read or adapted as asked
    ├── StorageError(OSError)        8   a run folder cannot be read or written
    ├── DivergedError(ArithmeticError) 1  the loss is not a number any more
    ├── JobsFailedError               1   jobs of a comparison failed, and may be tried again
    └── Interrupted                130   Ctrl-C

Exit code 0 is success. A message says what was found, what was expected, and what to do.
"""

from __future__ import annotations


class DoratuneError(Exception):
    """Base of every error that doratune raises on purpose."""

    exit_code = 1


class ConfigError(DoratuneError, ValueError):
    """A recipe or a command-line option is wrong."""

    exit_code = 2


class DataError(DoratuneError, ValueError):
    """A data file, an example or a split is wrong."""

    exit_code = 3


class VerificationError(DoratuneError, RuntimeError):
    """Two forms of one model differ by more than the stated threshold."""

    exit_code = 4


class DependencyError(DoratuneError, ImportError):
    """An optional package is missing; the message holds the install command."""

    exit_code = 5


class AdapterError(DoratuneError, ValueError):
    """An adapter is incomplete, malformed, or was trained on another base."""

    exit_code = 6


class ModelError(DoratuneError, ValueError):
    """A base model cannot be found, read, or adapted as asked."""

    exit_code = 7


class StorageError(DoratuneError, OSError):
    """A run folder cannot be read or written."""

    exit_code = 8


class DivergedError(DoratuneError, ArithmeticError):
    """The loss of a training is not a number any more."""


class JobsFailedError(DoratuneError, RuntimeError):
    """Jobs of a comparison failed for another reason than that training diverged."""


class Interrupted(DoratuneError):  # noqa: N818 - InterruptedError is a built-in
    """The user pressed Ctrl-C."""

    exit_code = 130
