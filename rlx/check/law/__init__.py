"""The laws, by subject; `rlx.check.checker.LAWS` lists them by name."""
