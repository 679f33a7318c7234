"""The laws, by what they look at; `rlx.check.checker.LAWS` lists them by name."""
