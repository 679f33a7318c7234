"""Comparisons for the tests of the report: an ordinary one, and one whose every text is hostile."""

from __future__ import annotations

from pathlib import Path

from tests.comparison.records import normal_scores, write_run

HOSTILE = (
    '<script>document.title="taken"</script><img src=x onerror="document.title=1">"\'</pre>'
    "\x1b[31m\u202e$x_1$ &amp; {{ 7*7 }} | `a` \\ %"
)


def samples(step: int, completion: str = "46") -> list[dict]:
    return [
        {"step": step, "prompt": "12+34=", "completion": completion, "sampled": "45", "reward": 1.0},
        {"step": step, "prompt": [{"role": "user", "content": "7+8="}], "completion": "15", "reward": 0.0},
    ]


def write_ordinary(root: Path, *, seeds: int = 6) -> Path:
    """Three settings of hybrid, two other algorithms, a failed run: every figure has something to show."""
    for place, weight in enumerate((0.0, 0.5, 1.0)):
        for seed, score in enumerate(normal_scores(0.6 + 0.05 * place, 0.02, seeds, seed=place)):
            options = {"algorithm__dpo_weight": weight, "kl": 0.2 + weight, "tokens": 1000 + 500 * place}
            write_run(root / f"h{weight}_{seed}", algorithm="hybrid", seed=seed, score=score, samples=samples(100), **options)
    for place, algorithm in enumerate(("custom_dpo", "grpo")):
        for seed, score in enumerate(normal_scores(0.55 + 0.02 * place, 0.02, seeds, seed=10 + place)):
            options = {"kl": 0.3 + place, "tokens": 2000, "samples": samples(100, "47")}
            write_run(root / f"{algorithm}_{seed}", algorithm=algorithm, seed=seed, score=score, **options)
    write_run(root / "broken", algorithm="grpo", seed=99, status="failed", score=None)
    return root


def write_hostile(root: Path) -> Path:
    """Completions, prompts, names, errors, commands and config values that try to be something else."""
    for place, algorithm in enumerate(("custom_dpo", f"my{HOSTILE}")):
        for seed, score in enumerate(normal_scores(0.5 + 0.1 * place, 0.02, 5, seed=place)):
            rows = [{"step": 100, "prompt": HOSTILE, "completion": HOSTILE, "reward": HOSTILE}]
            record = {
                "command": ["rlx", HOSTILE],
                "provenance": {
                    "rlx": {"version": HOSTILE, "code": HOSTILE},
                    "git": {"commit": HOSTILE},
                    "host": HOSTILE,
                    "packages": {HOSTILE: HOSTILE},
                },
                "sources": [{"module": HOSTILE, "sha256": HOSTILE}] if place else [],
            }
            options = {"task": f"task{HOSTILE}", "policy__path": HOSTILE, "samples": rows, "record": record}
            write_run(root / f"{place}_{seed}", algorithm=algorithm, seed=seed, score=score, **options)
    failed = {"error": {"type": HOSTILE, "message": HOSTILE}}
    write_run(root / "failed", seed=9, status="failed", score=None, task=f"task{HOSTILE}", policy__path=HOSTILE, record=failed)
    return root
