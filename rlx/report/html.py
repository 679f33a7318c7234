"""report.html: one file that opens from disk without a network. All text from records is escaped by the template."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import rlx
from rlx.comparison.comparison import Comparison
from rlx.comparison.scores import RunScore
from rlx.comparison.wording import conclusion
from rlx.comparison.wording import score_text as number
from rlx.errors import DataError
from rlx.record.lines import read_samples
from rlx.report.figures import all_figures
from rlx.report.tables import Column, method_line, pair_columns, rank_line, title, variant_columns
from rlx.report.text import duration, figure, safe

MOST_TASKS = 4
MOST_PROMPTS = 8
MOST_VERDICTS = 60
COLOURS = 8


def render_page(comparison: Comparison) -> str:
    """The page as HTML."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    script, css = (files("rlx.report").joinpath(name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    template = environment.from_string(files("rlx.report").joinpath("page.html.jinja").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template.render(script=script, script_hash=f"sha256-{digest}", css=css, **_cleaned(context(comparison)))


def _cleaned(value: Any) -> Any:
    """Without control characters and marks that reorder text; the drawings have escaped theirs already."""
    if isinstance(value, str):
        return safe(value)
    if isinstance(value, Mapping):
        return {key: _cleaned(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(item) for item in value]
    return value


def context(comparison: Comparison) -> dict[str, Any]:
    """Everything that the template shows."""
    first = comparison.variants[0].label
    foremost = [pair for pair in comparison.pairs if len(comparison.pairs) <= 6 or first in (pair.a, pair.b)]
    others = [pair for pair in comparison.pairs if pair not in foremost]
    figures = [vars(drawn) for drawn in all_figures(comparison)]
    folded = [drawn for drawn in figures if drawn["name"].startswith("curves-")][MOST_TASKS:]
    samples = sample_rows(comparison)
    differences = difference_table(comparison)
    contents = [
        ("verdicts", "verdicts"),
        ("cautions", "cautions"),
        ("variants-section", "variants"),
        ("figures", "figures"),
        ("tables", "tables"),
    ]
    contents += [("samples", "completions")] if samples else []
    contents += [("configs", "configs")] if differences[1] else []
    contents += [("provenance", "provenance"), ("remake", "make it again")]
    return {
        "title": title(comparison),
        "answer": conclusion(comparison.variants, comparison.pairs),
        "contents": [item for item in contents if item[0] != "cautions" or comparison.cautions],
        "verdicts": [{"verdict": pair.verdict, "words": pair.words} for pair in foremost],
        "other_verdicts": [{"verdict": pair.verdict, "words": pair.words} for pair in others[:MOST_VERDICTS]],
        "more_pairs": max(0, len(others) - MOST_VERDICTS),
        "method": method_line(comparison),
        "cautions": [{"text": caution.text} for caution in comparison.cautions],
        "labels": [variant.label for variant in comparison.variants],
        "variant_css": "".join(
            f".v{i}{{--v:var(--c{i % COLOURS})}}.key{i}{{color:var(--c{i % COLOURS})}}" for i in range(len(comparison.variants))
        ),
        "figures": [drawn for drawn in figures if drawn not in folded],
        "folded": folded,
        "variants_table": filled(variant_columns(comparison), comparison.variants),
        "pairs_table": filled(pair_columns(comparison), comparison.pairs),
        "runs_table": filled(run_columns(), comparison.runs),
        "ranks": rank_line(comparison),
        "prompt_lines": prompt_lines(comparison),
        "samples": samples,
        "differences": differences,
        "runs": [{"title": run_title(run), "facts": run_facts(run)} for run in comparison.runs],
        "command": shlex.join(comparison.command),
        "commands": [shlex.join([str(word) for word in run.record.command]) for run in comparison.runs],
        "version": rlx.__version__,
        "alpha": f"{comparison.choices.alpha:.2g}",
    }


def filled(columns: Sequence[Column], rows: Sequence[Any]) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """Headings, and cells with what they sort by."""
    heads = [{"name": column.name, "is_text": column.is_text, "hint": column.hint} for column in columns]
    return heads, [[_cell(column.text(row), column.value(row), column.is_text) for column in columns] for row in rows]


def _cell(text: str, value: Any, is_text: bool) -> dict[str, Any]:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    known = value is not None and not (isinstance(value, float) and math.isnan(value))
    return {"text": text, "value": str(value) if known else "", "is_number": is_number, "is_text": is_text}


def run_columns() -> list[Column]:
    """The columns of the table of runs."""
    return [
        Column("variant", lambda r: r.variant, lambda r: r.variant, is_text=True),
        Column("task", lambda r: r.task, lambda r: r.task, is_text=True),
        Column("seed", lambda r: str(r.seed), lambda r: r.seed),
        Column("state", lambda r: r.state + (", counted as worst" if r.imputed else ""), lambda r: r.state, is_text=True),
        Column("score", lambda r: number(r.score), lambda r: r.score),
        Column("noise", lambda r: number(r.prompt_error), lambda r: r.prompt_error, hint="standard error over prompts"),
        Column("KL", lambda r: number(r.kl), lambda r: r.kl),
        Column("steps", lambda r: figure(r.step), lambda r: r.step),
        Column("tokens", lambda r: figure(r.tokens), lambda r: r.tokens),
        Column("time", lambda r: duration(r.seconds), lambda r: r.seconds),
        Column("run", lambda r: r.record.directory.name, lambda r: r.record.directory.name, is_text=True),
    ]


def prompt_lines(comparison: Comparison) -> list[str]:
    """Differences over the same prompts, where runs kept their answers."""
    return [
        f"{pair} over the same prompts: {number(gap, signed=True)} ± {number(error)} (standard error over prompts, for these "
        "runs; it says nothing about other seeds)."
        for pair, (gap, error) in comparison.prompt_differences.items()
    ]


def sample_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Prompts with the completion of one run of each variant."""
    answers: dict[str, list[dict[str, Any]]] = {}
    for variant in comparison.variants:
        for run in sorted((run for run in comparison.runs if run.variant == variant.label), key=lambda run: run.seed):
            rows = _last_samples(run)
            for row in rows:
                shown = {
                    "variant": variant.label,
                    "seed": run.seed,
                    "step": row.get("step"),
                    "completion": _text(row.get("completion")),
                }
                reward = row.get("reward")
                shown["reward"] = figure(reward) if isinstance(reward, (int, float)) else ""
                answers.setdefault(_text(row.get("prompt")), []).append(shown)
            if rows:
                break
    ordered = sorted(answers.items(), key=lambda item: -len(item[1]))
    return [{"prompt": prompt, "answers": found} for prompt, found in ordered[:MOST_PROMPTS]]


def _last_samples(run: RunScore) -> list[dict[str, Any]]:
    """The completions of a run's last evaluation; damaged ones are left out, for they are no scores."""
    try:
        rows = [row for row in read_samples(run.record.directory) if "completion" in row]
    except DataError:
        return []
    last = max((row["step"] for row in rows), default=0)
    return [row for row in rows if row["step"] == last][:MOST_PROMPTS]


def _text(value: Any, most: int = 4000) -> str:
    text = value if isinstance(value, str) else _chat(value) or json.dumps(value, ensure_ascii=False, indent=1)
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} more characters)"


def _chat(value: Any) -> str:
    """Messages as `role: content` lines; empty for whatever else."""
    messages = value if isinstance(value, list) else []
    if not all(isinstance(one, Mapping) and set(one) == {"role", "content"} for one in messages):
        return ""
    return "\n".join(f"{one['role']}: {one['content']}" for one in messages)


def difference_table(comparison: Comparison) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """Config keys in which runs differ, a column a variant (the first twelve)."""
    labels = [variant.label for variant in comparison.variants][:12]
    heads = [{"name": name, "is_text": True, "hint": ""} for name in ("key", *labels)]
    rows = []
    for key, values in comparison.config_differences.items():
        cells = [", ".join(_short(value) for value in values.get(label, [])[:6]) or "-" for label in labels]
        rows.append([_cell(text, text, True) for text in (key, *cells)])
    return heads, rows


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def run_title(run: RunScore) -> str:
    """A run in one line."""
    return f"{run.variant}, {run.task}, seed {run.seed}: {run.state}, score {number(run.score)}"


def run_facts(run: RunScore) -> list[tuple[str, str]]:
    """Where a run came from."""
    record = run.record
    git = record.provenance.get("git")
    git = git if isinstance(git, Mapping) else {}
    code = record.provenance.get("rlx")
    facts = {
        "directory": str(record.directory),
        "command": shlex.join([str(word) for word in record.command]),
        "config hash": record.config_hash,
        "rlx": _flat(code),
        "git": f"{git.get('commit')}{' with uncommitted changes' if git.get('dirty') else ''}" if git else "",
        "sources": "; ".join(
            f"{item.get('module', item.get('target', ''))} {str(item.get('sha256', ''))[:12]}"
            for item in record.sources
            if isinstance(item, Mapping)
        ),
        "started": record.started,
        "ended": record.ended or "",
        "machine": " ".join(str(record.provenance[name]) for name in ("host", "platform", "python") if name in record.provenance),
        "packages": _flat(record.provenance.get("packages")),
        "error": _flat(record.error),
        "notes": "; ".join(run.notes),
    }
    return [(name, text) for name, text in facts.items() if text]


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return "" if value is None else str(value)
