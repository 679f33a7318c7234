"""The errors of rlx: what is wrong with the value, where it came from, what to do."""


class RlxError(Exception):
    """Base of all errors that rlx raises on purpose; the command line prints them without a traceback."""

    exit_code = 1


class ConfigError(RlxError, ValueError):
    """A command line, config key or config value that cannot be used."""

    exit_code = 2


class DataError(RlxError, ValueError):
    """An input file, record or example that cannot be used."""

    exit_code = 2


class ShapeError(RlxError, ValueError):
    """Tensors whose shapes do not belong together."""


class TrainingError(RlxError, RuntimeError):
    """A run that cannot go on: a loss that is not finite, a full disk, a reward that raises."""


class EvidenceError(RlxError, ValueError):
    """A conclusion that the runs at hand cannot carry."""

    exit_code = 2
