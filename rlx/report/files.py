"""The files of a comparison: comparison.json, tables, figures and report.html, each written completely or not at all.

The page is one file that opens from disk without a network. The template escapes all text from records.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from rlx.comparison.comparison import Comparison
from rlx.comparison.descriptive import PromptResult, contest
from rlx.comparison.pair import PairComparison
from rlx.comparison.scores import RunScore
from rlx.comparison.wording import conclusion, score_text, verdict_lines
from rlx.errors import DataError
from rlx.record.files import completion_text, full_disk_explained, prompt_text, read_samples, write_atomic
from rlx.report.columns import config_table, full_tables, pair_table, run_table, run_title, variant_table
from rlx.report.comparison import gain_line, halving_lines, latex, markdown, method_line, prompt_lines, rank_line, title
from rlx.report.figure.base import Figure
from rlx.report.figure.curves import curve_figures, efficiency_figures, metric_figures, shown_logs
from rlx.report.figure.scores import (
    aggregate_figures,
    cost_figures,
    difference_figure,
    importance_figures,
    improvement_figure,
    profile_figure,
    score_figure,
    search_figures,
    setting_figures,
)
from rlx.report.figure.svg import draw_svg, is_long
from rlx.report.table import as_cells, as_csv
from rlx.report.text import safe, significant

MOST_TASKS = 4
MOST_PROMPTS = 8
MOST_VERDICTS = 60
MOST_CONTESTS = 6
MOST_CONTEST_CHARACTERS = 100_000  # characters of a pair's won prompts, and of its lost prompts
MOST_PROVENANCE = 300  # runs whose origin and command are on the page; each run.json has them
COLOURS = 8


def render_page(comparison: Comparison, *, version: str) -> str:
    """The page as HTML. version: of rlx, for its last line."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    script, css = (files("rlx.report").joinpath(name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    template = environment.from_string(files("rlx.report").joinpath("page.html.jinja").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template.render(
        script=script, script_hash=f"sha256-{digest}", css=css, version=version, **_cleaned(page_context(comparison))
    )


def _cleaned(value: Any) -> Any:
    """A value without control characters and marks that reorder text; drawings are already escaped."""
    if isinstance(value, str):
        return safe(value)
    if isinstance(value, Mapping):
        return {key: _cleaned(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(item) for item in value]
    return value


def page_context(comparison: Comparison) -> dict[str, Any]:
    """All variables of the template except the version."""
    first = comparison.variants[0].label
    foremost = [pair for pair in comparison.pairs if len(comparison.pairs) <= 6 or first in (pair.a, pair.b)]
    others = [pair for pair in comparison.pairs if pair not in foremost]
    shown = _groups(all_figures(comparison))
    folded = [group for group in shown if group[0].name.startswith("curves-")][MOST_TASKS:]
    samples, configs = sample_rows(comparison), config_table(comparison)
    contests = contest_rows(comparison, foremost[:MOST_CONTESTS])
    contents = {
        "verdicts": ("verdicts", True),
        "cautions": ("cautions", bool(comparison.cautions)),
        "variants-section": ("variants", True),
        "figures": ("figures", True),
        "tables": ("tables", True),
        "contests": ("prompts won and lost", bool(contests)),
        "samples": ("completions", bool(samples)),
        "configs": ("configs", bool(configs.rows)),
        "provenance": ("provenance", True),
        "remake": ("make it again", True),
    }
    return {
        "title": title(comparison),
        "answer": conclusion(comparison.variants, comparison.pairs),
        "contents": [(name, text) for name, (text, is_there) in contents.items() if is_there],
        "verdicts": [{"verdict": verdict, "words": words} for words, verdict in verdict_lines(foremost)],
        "other_verdicts": [{"verdict": verdict, "words": words} for words, verdict in verdict_lines(others[:MOST_VERDICTS])],
        "more_pairs": max(0, len(others) - MOST_VERDICTS),
        "method": method_line(comparison),
        "cautions": [{"text": caution.text} for caution in comparison.cautions],
        "variant_css": "".join(
            f".v{i}{{--v:var(--c{i % COLOURS})}}.key{i}{{color:var(--c{i % COLOURS})}}" for i in range(len(comparison.variants))
        ),
        "figures": [_drawn(group) for group in shown if group not in folded],
        "folded": [_drawn(group) for group in folded],
        "variants_table": as_cells(variant_table(comparison)),
        "pairs_table": as_cells(pair_table(comparison)),
        "runs_table": as_cells(run_table(comparison)),
        "configs_table": as_cells(configs),
        "ranks": rank_line(comparison),
        "prompt_lines": list(filter(None, [gain_line(comparison), *halving_lines(comparison), *prompt_lines(comparison)])),
        "samples": samples,
        "contests": contests,
        "runs": [{"title": run_title(run), "facts": run_facts(run)} for run in comparison.runs[:MOST_PROVENANCE]],
        "num_runs": len(comparison.runs),
        "command": shlex.join(comparison.command),
        "commands": [shlex.join([str(word) for word in run.record.command]) for run in comparison.runs[:MOST_PROVENANCE]],
        "alpha": f"{comparison.choices.alpha:.2g}",
    }


def _groups(figures: Sequence[Figure]) -> list[list[Figure]]:
    """Figures in order, with those of a family grouped."""
    groups: dict[str, list[Figure]] = {}
    for figure in figures:
        groups.setdefault(figure.family or f"figure {figure.name}", []).append(figure)
    return list(groups.values())


def _drawn(group: list[Figure]) -> dict[str, Any]:
    """A figure, or the figures of a family, for the template."""
    first = group[0]
    return {
        "name": first.family or first.name,
        "title": first.title,
        "choices": [list(dict.fromkeys(figure.choice[place] for figure in group)) for place in range(len(first.choice))],
        "members": [{"choice": "|".join(f.choice), "drawing": draw_svg(f), "caption": f.caption} for f in group],
        "legend": dict.fromkeys(entry for figure in group for entry in figure.legend),
        "has_seeds": any(figure.has_seeds for figure in group),
        "is_long": is_long(first),
    }


def contest_rows(comparison: Comparison, pairs: Sequence[PairComparison]) -> list[dict[str, Any]]:
    """For each pair, the numbers of prompts won and lost, and those with stored completions, most clearly won first."""
    rows = []
    for pair in pairs if len(comparison.tasks) == 1 else ():
        found = contest(pair.a, pair.b, comparison.runs, lower_is_better=comparison.choices.is_lower_better)
        if found is None:
            continue
        size = found.won + found.lost + found.tied
        words = f"{pair.a} wins {found.won} of {size} prompts against {pair.b}, loses {found.lost} and ties {found.tied}"
        sign = -1 if comparison.choices.is_lower_better else 1
        sides = {
            "won": [result for result in found.told if sign * result.difference > 1e-12],
            "lost": [result for result in reversed(found.told) if sign * result.difference < -1e-12],
        }
        lists = []
        for side, total in (("won", found.won), ("lost", found.lost)):
            prompts = [_contest_row(pair, result) for result in sides[side]]
            costs = np.cumsum([len(json.dumps(row)) for row in prompts])
            shown = max(MOST_PROMPTS // 2, int((costs <= MOST_CONTEST_CHARACTERS).sum()))
            lists.append({"side": side, "total": total, "kept": len(prompts), "prompts": prompts[:shown]})
        rows.append({"words": words, "lists": [one for one in lists if one["prompts"]]})
    return rows


def _contest_row(pair: PairComparison, result: PromptResult) -> dict[str, Any]:
    """A prompt with the completions of both variants."""
    told = ((pair.a, result.score_a, result.said_a), (pair.b, result.score_b, result.said_b))
    return {
        "prompt": _text(result.prompt),
        "answers": [
            {
                "variant": label,
                "score": score_text(score),
                "seed": said.seed,
                "counted": "" if said.score is None else score_text(said.score),
                "completion": "not kept" if said.completion is None else _text(said.completion),
            }
            for label, score, said in told
        ],
    }


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
                    "completion": _text(completion_text(row)),
                }
                reward = row.get("reward")
                shown["reward"] = significant(reward) if isinstance(reward, (int, float)) else ""
                answers.setdefault(_text(row.get("prompt")), []).append(shown)
            if rows:
                break
    ordered = sorted(answers.items(), key=lambda item: -len(item[1]))
    return [{"prompt": prompt, "answers": found} for prompt, found in ordered[:MOST_PROMPTS]]


def _last_samples(run: RunScore) -> list[dict[str, Any]]:
    """The completions of a run's last evaluation; damaged files are ignored, as they do not affect scores."""
    try:
        rows = [row for row in read_samples(run.record.directory) if "completion" in row]
    except DataError:
        return []
    last = max((row["step"] for row in rows), default=0)
    return [row for row in rows if row["step"] == last][:MOST_PROMPTS]


def _text(value: Any, most: int = 4000) -> str:
    value = prompt_text(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} more characters)"


def run_facts(run: RunScore) -> list[tuple[str, str]]:
    """The origin of a run."""
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


# All figures of a comparison.


_Makers = tuple[Callable[[Comparison], list[Figure]], ...]
_SCORES: _Makers = (score_figure, aggregate_figures, difference_figure, improvement_figure, curve_figures)
_CHOICES: _Makers = (
    profile_figure,
    importance_figures,
    setting_figures,
    cost_figures,
    search_figures,
)


def all_figures(comparison: Comparison) -> list[Figure]:
    """All informative figures that the data allow, the most important first."""
    logs = shown_logs(comparison)
    scores = [figure for make in _SCORES for figure in make(comparison)]
    training = [*efficiency_figures(comparison, logs), *metric_figures(comparison, logs)]
    return [*scores, *training, *(figure for make in _CHOICES for figure in make(comparison))]


def place_beside(comparison: Comparison) -> Path:
    """The directory that contains all runs; the working directory if they have no common parent."""
    parents = [os.path.realpath(run.record.directory.parent) for run in comparison.runs]
    try:
        shared = Path(os.path.commonpath(parents))
    except ValueError:  # on different drives
        return Path.cwd()
    return Path.cwd() if shared in (Path(shared.anchor), Path.home()) else shared


def write_files(
    comparison: Comparison, directory: Path, *, page: bool, figures: bool, version: str, columns: Sequence[str] = ()
) -> list[Path]:
    """Write all files and return the most important paths. version: of rlx, for the page; columns: of the tables."""
    with full_disk_explained(directory, key="out=DIR"):
        directory.mkdir(parents=True, exist_ok=True)
        values = comparison.to_dict()
        text = json.dumps(values, indent=1, allow_nan=False, ensure_ascii=True)
        write_atomic(directory / "comparison.json", text + "\n")
        for table in full_tables(values):
            write_atomic(directory / f"{table.name}.csv", as_csv(table))
        write_atomic(directory / "comparison.tex", latex(comparison, columns))
        write_atomic(directory / "comparison.md", markdown(comparison, columns))
        written = [directory / "comparison.json", directory / "comparison.md"]
        if figures:
            from rlx.report.figure.paper import write_figures

            printed = [figure for figure in all_figures(comparison) if figure.is_printed]
            written += write_figures(printed, directory / "figures")[:1]
        if page:
            write_atomic(directory / "report.html", render_page(comparison, version=version))
            written.append(directory / "report.html")
    return written
