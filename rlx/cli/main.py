"""The command `rlx`: finds the verb, composes its config through Hydra, and runs it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from rlx.config import conf_dir, register
from rlx.errors import RlxError


def entry() -> None:
    """What the console script and `python -m rlx` call."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    import hydra

    arguments = list(argv)
    verb = "train"
    if arguments and arguments[0] == "train":
        arguments = arguments[1:]
    register()
    module = importlib.import_module(f"rlx.cli.{verb}")
    codes: list[int] = []
    os.environ["HYDRA_FULL_ERROR"] = "1"
    saved = sys.argv
    sys.argv = ["rlx", *arguments]
    try:
        hydra.main(config_path=str(conf_dir()), config_name=verb, version_base="1.3")(lambda cfg: codes.append(module.run(cfg)))()
    except RlxError as error:
        print(f"rlx: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        sys.argv = saved
    return max(codes, default=0)
