"""The command `rlx`: finds the verb, composes its config with Hydra, runs the verb and decides the exit code."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import rlx
from rlx.cli.line import parse_arguments, verbs
from rlx.cli.output import lost_output
from rlx.config import conf_dir
from rlx.errors import STOP_SIGNALS, ConfigError, ExitCode, RlxError, TrainingError, users_frames, users_place
from rlx.interrupt import early_end

if TYPE_CHECKING:
    from rlx.config.compose import CommandLine, Composed

# The process state that Hydra changes while it runs.


@contextmanager
def hydra_surroundings(arguments: list[str]) -> Iterator[None]:
    """Set up the process for Hydra, and restore it: Hydra reads sys.argv, prints errors, and only warns about a missing folder.

    For --info, Hydra logs to the current standard output and would keep it in a notebook. The config that it shows is the one
    that a run gets.
    """
    from hydra._internal.hydra import Hydra

    from rlx.config.sources import take_out_unread_losses

    show = Hydra.get_sanitized_cfg

    def shown(self: Hydra, cfg: Any, cfg_type: str) -> Any:
        choices = {str(group): option for group, option in cfg.hydra.runtime.choices.items()}
        take_out_unread_losses(cfg, choices, list(map(str, cfg.hydra.overrides.task)))
        return show(self, cfg, cfg_type)

    saved, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    sys.argv = ["rlx", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    Hydra.get_sanitized_cfg = shown  # type: ignore[method-assign]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=r"provider=.* is not\s+available")
            yield
    finally:
        Hydra.get_sanitized_cfg = show  # type: ignore[method-assign]
        sys.argv = saved
        root.handlers[:] = handlers
        root.setLevel(level)
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


# The command itself.

_SHOWS = {"--help", "-h", "--version", "--cfg", "-c", "--info"}  # flags that print something and run nothing


class SweepError(RlxError):
    """A sweep has failed jobs; a launcher's worker reports them with this error."""

    exit_code = ExitCode.SWEEP_FAILED


class StopSweep(BaseException):
    """Ends a sweep between two jobs; a BaseException, so that no `except Exception` stops it."""


class UnexpectedError(Exception):
    """An error that no input explains: a bug, shown with its traceback."""


def command_line() -> None:
    """The entry point of the console script and of `python -m rlx`."""
    try:
        code = main(sys.argv[1:])
    except KeyboardInterrupt:  # a second Ctrl-C, while the first was seen to
        code = ExitCode.INTERRUPTED
    if "rlx.parallel.distributed" in sys.modules:
        from rlx.parallel.distributed import end_process

        end_process(code)
    gc.freeze()  # the interpreter's last garbage collection would spend a second on torch's objects
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # everything is written: another Ctrl-C ends the process without a traceback
    for number in set(STOP_SIGNALS) - {signal.SIGINT}:  # a stop that arrives now does not change the exit code
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def main(argv: Sequence[str]) -> int:
    """Run one command line, print an error on stderr, and return the exit code."""
    code, message = invoke(argv)
    sys.stdout.flush()
    if message:
        print(message, file=sys.stderr)
    return code


def invoke(argv: Sequence[str]) -> tuple[int, str]:
    """Run one command line; returns the exit code and the message for stderr, which is empty on success."""
    from rlx.config.compose import CommandLine

    line = CommandLine()
    try:
        line = parse_arguments(argv)
        code, message = dispatch(line), ""
        missing = lost_output()
        if missing:
            trains = (line.verb or "train") == "train" and not _SHOWS & set(line.flags)
            failed = 0 if trains else ExitCode.FAILED  # the result of a training run is its record
            code, message = code or failed, f"rlx: {missing}"
    except BaseException as error:
        code, message = _said(error, line)
    ended = early_end() if message and code else ""
    # A library that cleans up after a Ctrl-C can fail and raise its own error instead of the interrupt.
    return (ExitCode.INTERRUPTED, ended) if ended else (code, message)


def _said(error: BaseException, line: CommandLine) -> tuple[int, str]:
    """The exit code and the message for an exception that a command line raised."""
    match error:
        case UnexpectedError():
            return ExitCode.FAILED, unexpected(error.__cause__)
        case RlxError():
            return error.exit_code, f"rlx: {error}"
        case KeyboardInterrupt():
            return ExitCode.INTERRUPTED, early_end()
        case StopSweep():
            return int(error.args[0]), ""
        case SystemExit(code=int(code)):
            return code, ""
        case SystemExit(code=code):
            return int(code is not None), str(code or "")
        case Exception():
            from rlx.cli.failure import explained

            known = explained(error, line)
            unknown = "".join(traceback.format_exception(error)).rstrip()
            return (ExitCode.FAILED, unknown) if known is None else (known.exit_code, f"rlx: {known}")
    raise error


def dispatch(line: CommandLine) -> int:
    """Show help or version, resume a sweep with the command it was begun with, or run the command as typed."""
    from rlx.cli.line import cut_verb, is_query

    if "--version" in line.flags:
        print(f"rlx {rlx.__version__}")
        return 0
    nothing = line.verb is None and not line.overrides and not line.flags
    if nothing or {"--help", "-h"} & set(line.flags):
        from rlx.cli.help import overview, verb_help

        print(overview(line) if line.verb is None else verb_help(line.verb, line))
        return 0
    if "--shell-completion" in line.flags and is_query(line.overrides):
        line.verb, found = cut_verb(os.environ)
        print(*found, sep="\n")
    if line.is_multirun and (line.verb or "train") == "train":
        from rlx.sweep.resume import sweep_to_resume

        directory = sweep_to_resume(line.overrides)
        if directory is not None:
            return resume_sweep(line, directory)
    return run_composed(line)


def resume_sweep(line: CommandLine, directory: Path) -> int:
    """Resume the sweep in a directory: run its recorded command, which may name only code that the user named."""
    from rlx.config.sources import serving_only, use_working_directory
    from rlx.sweep.kept import kept_before, served
    from rlx.sweep.resume import resumed_command

    use_working_directory()
    resumed = resumed_command(directory, line.argv)
    line = parse_arguments(resumed.arguments)
    line.recorded, line.trusted = resumed.recorded, resumed.trusted
    named = line.named
    with serving_only(named), served(kept_before(directory, resumed.plan, named)):
        return run_composed(line, directory)


def run_composed(line: CommandLine, directory: Path | None = None) -> int:
    """Compose the verb's config with Hydra and run the verb on it: once, or with -m once per job.

    directory: of a sweep that is resumed; None otherwise.
    """
    import hydra

    from rlx.cli.line import hydra_overrides
    from rlx.config.sources import install_sources

    if any(override.lstrip("+~").partition("=")[0] == "hydra.mode" for override in line.overrides):
        raise ConfigError("hydra.mode is set by the command: rlx -m sweeps, rlx without -m runs once; leave hydra.mode out")
    install_sources()
    verb = verbs()[line.verb or "train"]
    module = verb.load()
    if line.is_multirun and hasattr(module, "NO_SWEEP"):
        raise ConfigError(f"rlx {verb.name} is not a sweep: leave out -m; {module.NO_SWEEP}")
    if hasattr(module, "prepare"):
        module.prepare(line)
    line.check()
    overrides = hydra_overrides(line, verb, getattr(module, "WORDS", None))
    codes: list[int] = []
    errors: list[Exception] = []
    process = os.getpid()

    def job(cfg: Any) -> int:
        try:
            code = run_job(module, cfg, line)
        except Exception as error:  # raised again outside Hydra, which would print its own message
            errors.append(error)
            code = 1
        codes.append(code)
        if code and os.getpid() != process:  # in a launcher's worker, where nobody reads these lists
            raise SweepError("jobs failed, see above; rlx runs lists them")
        return code

    if line.is_multirun and verb.name == "train":
        install_sweeper(line, directory)
    with hydra_surroundings([*line.flags, *overrides]):
        hydra.main(config_path=str(conf_dir()), config_name=verb.name, version_base="1.3")(job)()
    if errors:
        raise errors[0]
    if not line.is_multirun:
        return max(codes, default=0)
    return ExitCode.USAGE if codes and all(code == ExitCode.USAGE for code in codes) else ExitCode.SWEEP_FAILED * any(codes)


def install_sweeper(line: CommandLine, directory: Path | None) -> None:
    """Make rlx's own sweeper known to Hydra."""
    from rlx.sweep.run import SweepCommand, register_sweeper

    given = frozenset(override.lstrip("+~").partition("=")[0] for override in line.typed)
    register_sweeper(SweepCommand(tuple(line.argv), lambda: line.allowed, directory, given))


def run_job(module: ModuleType, cfg: Any, line: CommandLine) -> int:
    """Run the verb on one composed config. In a sweep, a failed job is reported and the others still run."""
    from hydra.core.hydra_config import HydraConfig

    from rlx.sweep.plan.settings import pop_settings

    pop_settings(cfg)
    composed = line.composed(cfg, HydraConfig.get())
    if not line.is_multirun:
        return run_verb(module, composed)
    number = HydraConfig.get().job.num
    print(f"job {number}: {' '.join(composed.overrides)}", flush=True)
    try:
        code = run_verb(module, composed)
    except RlxError as error:
        print(f"rlx: job {number}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except UnexpectedError as error:
        print(unexpected(error.__cause__), file=sys.stderr)
        return 1
    if code in STOP_SIGNALS.values():  # a sweep does not start its next job
        raise StopSweep(code)
    return code


def run_verb(module: ModuleType, composed: Composed) -> int:
    """Check the config and run the verb on it. An error that is not an RlxError is a bug, whatever its class."""
    try:
        if hasattr(module, "narrow"):
            composed = module.narrow(composed)
        if hasattr(module, "SCHEMA"):
            composed.check(module.SCHEMA)
        return int(module.run(composed))
    except RlxError:
        raise
    except SystemExit as error:
        place = users_place(error) or "a library"
        raise TrainingError(f"{place} ended the process (SystemExit: {error.code}); raise an error there instead") from error
    except Exception as error:
        raise UnexpectedError from error


def unexpected(error: BaseException | None) -> str:
    """The traceback of an error that is not an RlxError; if it is in the user's code, only from there on."""
    assert error is not None
    first = next(users_frames(error), None)
    shown = "".join(traceback.format_exception(type(error), error, first or error.__traceback__)).rstrip()
    return shown if first is None else f"{shown}\nrlx: {users_place(error)}: {type(error).__name__}: {error}"
