"""rlx: a laboratory for post-training algorithms of language models."""

__version__ = "0.1.0"
