"""From run records to verdicts: which runs, their scores, tests over seeds and prompts, cautions. Imports no torch."""
