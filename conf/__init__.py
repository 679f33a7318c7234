"""The configuration of rlx: one primary config a verb, then one folder a group."""
