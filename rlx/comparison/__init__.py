"""From run records to verdicts: selecting runs, scores, tests over seeds and prompts, cautions. Imports no torch."""
