"""Locates code in the user's files: the method of an algorithm, or the line of an expression."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rlx.errors import is_users_file
from rlx.seeding import Stream

DICE = {"torch", "numpy"}  # methods of a Stream that return a generator
OTHER_DICE = {
    "default_rng",
    "manual_seed",
    "Random",
    "rand",
    "randn",
    "randint",
    "randperm",
    "rand_like",
    "randn_like",
    "bernoulli",
}
CLOCKS = {"time", "time_ns", "perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "process_time"}
STARTS = tuple(str(Path("rlx", "check", name)) for name in ("checker.py", "subject.py"))  # the files that call the algorithm
SEEDING = Stream.child.__code__.co_filename
METHODS = ("draw", "updates", "compute_loss", "update_policy", "validate")


def place_of_method(owner: Any, name: str) -> str:
    """Return `FILE:LINE in NAME` of a method that a user's class defines; empty for a method of rlx."""
    method = getattr(type(owner), name, None)
    code = getattr(inspect.unwrap(method), "__code__", None) if callable(method) else None
    if not isinstance(code, types.CodeType) or not is_users_file(code.co_filename):
        return ""
    return f"{code.co_filename}:{code.co_firstlineno} in {name}"


def place_of_frame(frame: types.FrameType | None) -> str:
    """Return `FILE:LINE in FUNCTION` of the innermost frame in a user's file; empty if there is none.

    Callers of the laws are ignored: a program that starts a check is not part of the algorithm.
    """
    while frame is not None and not is_users_file(frame.f_code.co_filename):
        frame = None if frame.f_code.co_filename.endswith(STARTS) else frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


class FirstResult(TorchFunctionMode):
    """Records the place of the first torch operation, called in a user's file, with `shows(name, arguments, result)` true."""

    def __init__(self, shows: Callable[[str, tuple[Any, ...], Any], bool]) -> None:
        super().__init__()
        self.place = ""
        self._shows = shows

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.place:
            with torch._C.DisableTorchFunctionSubclass():
                if self._shows(getattr(func, "__name__", ""), args, result):
                    self.place = place_of_frame(sys._getframe(1))
        return result


def becomes_infinite(_: str, args: tuple[Any, ...], result: Any) -> bool:
    """Whether an operation returns a non-finite number for finite arguments."""
    if not isinstance(result, Tensor) or not result.is_floating_point() or bool(torch.isfinite(result).all()):
        return False
    given = [arg for arg in args if isinstance(arg, Tensor) and arg.is_floating_point()]
    return all(bool(torch.isfinite(arg).all()) for arg in given)


def loses_digits(_: str, args: tuple[Any, ...], result: Any) -> bool:
    """Whether an operation takes float64 and returns a smaller dtype."""
    if not isinstance(result, Tensor) or not result.is_floating_point() or result.dtype == torch.float64:
        return False
    return any(isinstance(arg, Tensor) and arg.dtype == torch.float64 for arg in args)


def leaves_the_graph(name: str, args: tuple[Any, ...], _: Any) -> bool:
    """Whether a number that carries a gradient is converted to a plain one: by item, float, tolist or numpy."""
    taken = name in ("item", "__float__", "__int__", "__bool__", "tolist", "numpy", "__array__")
    return taken and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)


def drops_out(name: str, *_: Any) -> bool:
    """Whether an operation is a dropout."""
    return "dropout" in name


def first_result(run: Callable[[], object], shows: Callable[[str, tuple[Any, ...], Any], bool]) -> str:
    """Return the place in a user's file where `shows` is first true while `run` runs; empty if it never is."""
    mode = FirstResult(shows)
    with mode:
        try:
            run()
        except Exception:  # the error was reported before; only the place is needed
            return mode.place
    return mode.place


def first_change(run: Callable[[], object], changed: Callable[[], bool]) -> str:
    """Return the line of a user's file after which `changed()` is first true while `run` runs; empty if it never is."""
    found: list[str] = []
    last: dict[types.FrameType, str] = {}

    def trace(frame: types.FrameType, event: str, _: Any) -> Any:
        if found or not is_users_file(frame.f_code.co_filename):
            return None if not found else trace
        if event in ("line", "return") and frame in last and changed():
            found.append(last[frame])
        last[frame] = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return found[0] if found else ""


class ResultLines(TorchFunctionMode):
    """Records the line of a user's file that made each result of torch; latest: the last such line, empty if there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.latest = ""
        self._made: list[tuple[Any, str]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and (place := place_of_frame(sys._getframe(1))):
            self._made.append((result, place))
            self.latest = place
        return result

    def line_of(self, tensor: Any) -> str:
        """Return the line that made a tensor, or the tensor of the same size that it is a view of; empty if it is unknown."""
        if not isinstance(tensor, Tensor):
            return ""
        own = (tensor.data_ptr(), tensor.numel())
        return next((place for made, place in reversed(self._made) if (made.data_ptr(), made.numel()) == own), "")


def _profiled(run: Callable[[], object], profile: Callable[[types.FrameType, str, Any], None]) -> None:
    """Call `run` with this profiler; restore the former one afterwards."""
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(before)


def clock_read(run: Callable[[], object]) -> str:
    """Return the place in a user's file where a clock is read while `run` runs; empty if none is."""
    found: list[str] = []

    def profile(frame: types.FrameType, event: str, arg: Any) -> None:
        is_clock = event == "c_call" and getattr(arg, "__module__", "") == "time" and arg.__name__ in CLOCKS
        if is_clock and not found and is_users_file(frame.f_code.co_filename):
            found.append(place_of_frame(frame))

    _profiled(run, profile)
    return found[0] if found else ""


def _randomness(run: Callable[[], object]) -> tuple[set[Stream], bool]:
    """Return (streams from which a user's file takes a generator while `run` runs, whether its code names other generators)."""
    streams: set[Stream] = set()
    others = False

    def profile(frame: types.FrameType, event: str, _: Any) -> None:
        nonlocal others
        code, caller = frame.f_code, frame.f_back
        taken = code.co_name in DICE and code.co_filename == SEEDING
        if event == "call" and is_users_file(code.co_filename):
            others |= not OTHER_DICE.isdisjoint(code.co_names)
        elif event == "call" and taken and caller is not None and is_users_file(caller.f_code.co_filename):
            streams.add(frame.f_locals["self"])

    _profiled(run, profile)
    return streams, others


def throws_dice(run: Callable[[], object]) -> bool:
    """Whether a user's file takes random numbers while `run` runs, from a Stream or from a generator of its own."""
    return any(_randomness(run))


def streams_used(run: Callable[[], object]) -> set[Stream]:
    """Return the streams from which a user's file takes a generator while `run` runs."""
    return _randomness(run)[0]
