"""`python -m rlx`."""

from rlx.cli.main import entry

entry()
