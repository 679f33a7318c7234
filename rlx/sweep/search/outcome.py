"""What is said and written when a search is over: the best variant with both its scores, what mattered, the plots."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlx.record.provenance import short_setting
from rlx.report.text import significant
from rlx.sweep.search.search import Search
from rlx.sweep.search.study import DIFFERS
from rlx.sweep.state import SCORE

_PLOTS = {
    "history": "plot_optimization_history",
    "slices": "plot_slice",
    "parallel_coordinates": "plot_parallel_coordinate",
}


def best_of_search(search: Search) -> dict[str, Any] | None:
    """The best variant of a search as sweep.json holds it, with the scores on fresh seeds if it was confirmed."""
    best = search.study.best()
    if not best:
        return None
    jobs = search.trials[best[0].number].jobs
    found: dict[str, Any] = {
        "variant": " ".join(map(short_setting, best[0].user_attrs[DIFFERS])),
        "trial": best[0].number,
        "objective": search.objective,
        "score": best[0].values[0],
        "scores": [value for value in search.values(jobs) if value is not None],
        "seeds": [job.seed for job in jobs],
        "overrides": [text for text in jobs[0].overrides if not text.startswith("seed=")],
    }
    values = zip(search.confirmed, search.values(search.confirmed), strict=True)
    confirmed = {job.seed: value for job, value in values if value is not None}
    if confirmed:
        scores = list(confirmed.values())
        found |= {"confirmed_score": sum(scores) / len(scores), "confirmed_scores": scores, "confirmed_seeds": list(confirmed)}
    if len(search.study.signs) > 1:
        found["front"] = [{"trial": one.number, "differs": one.user_attrs[DIFFERS], "values": one.values} for one in best]
    return found


SETTLED = 20  # trials a key, from which on the shares of importance are given without a caution


def summary_lines(search: Search, best: Mapping[str, Any] | None, importances: Mapping[str, float]) -> list[str]:
    """The end of a search as people read it."""
    states: dict[str, int] = {}
    for trial in search.study.begun():
        states[trial.state.name.lower()] = states.get(trial.state.name.lower(), 0) + 1
    lines = [f"{len(search.trials)} trials: " + ", ".join(f"{count} {name}" for name, count in sorted(states.items()))]
    if best is None:
        return [*lines, "no trial has a value, so there is no best variant"]
    name = "score" if search.objective == SCORE else search.objective
    lines.append(f"best: {best['variant']} (trial {best['trial']})")
    lines.append(f"  {name} {significant(best['score'])} in the search, over seeds {_listed(best['seeds'])}")
    if "confirmed_score" in best:
        seeds = _listed(best["confirmed_seeds"])
        lines.append(
            f"  {name} {significant(best['confirmed_score'])} on fresh seeds {seeds}: "
            "the first is the best of many, believe this one"
        )
    elif search.settings.confirm == 0 and len(search.trials) > 1:
        lines.append("  the best of many is flattered by luck; sweep.confirm=5 runs it again on fresh seeds")
    for one in best.get("front", ()):
        values = "  ".join(f"{name} {significant(value)}" for name, value in zip(search.study.signs, one["values"], strict=True))
        lines.append(f"  front: trial {one['trial']}  {values}  {' '.join(map(short_setting, one['differs']))}")
    if importances:
        lines.append("importance: " + ", ".join(f"{name} {share:.0%}" for name, share in importances.items()))
        ended = sum(trial.state.name == "COMPLETE" for trial in search.study.begun())
        if ended < (enough := SETTLED * len(importances)):
            lines.append(f"  of {ended} trials: these shares change with every further one, {enough} or more settle them")
    return lines


def _listed(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]}-{seeds[-1]}"
    return ",".join(map(str, seeds))


def draw_plots(search: Search, folder: Path) -> list[Path]:
    """The figures of a search as PNG; one that cannot be drawn (of a single trial, say) is left out, and said on stderr."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import optuna.visualization.matplotlib as drawn

    several = len(search.study.signs) > 1
    plots = dict.fromkeys(("pareto_front",), "plot_pareto_front") if several else dict(_PLOTS)
    if several:
        plots |= {"slices": "plot_slice", "parallel_coordinates": "plot_parallel_coordinate"}
    files = []
    folder.mkdir(exist_ok=True)
    for name, function in plots.items():
        options: dict[str, Any] = {"target_name": search.objective}
        if name == "pareto_front":
            options = {"target_names": list(search.study.signs)}
        elif several:
            options["target"] = lambda trial: trial.values[0]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                getattr(drawn, function)(search.study.study, **options)
                plt.gcf().savefig(folder / f"{name}.png", dpi=150, bbox_inches="tight")
            files.append(folder / f"{name}.png")
        except (ValueError, RuntimeError, TypeError, ImportError) as error:
            print(f"no plot {name}: {type(error).__name__}: {error}", file=sys.stderr)
        plt.close("all")
    importances = search.study.importances()
    if importances:
        files.append(_draw_importances(importances, folder / "importances.png"))
    return files


def _draw_importances(importances: Mapping[str, float], file: Path) -> Path:
    import matplotlib.pyplot as plt

    names = list(reversed(list(importances)))
    figure_, axes = plt.subplots(figsize=(6, 1 + 0.4 * len(names)))
    axes.barh(names, [importances[name] for name in names])
    axes.set_xlabel("share in what decides whether a trial is among the best")
    figure_.savefig(file, dpi=150, bbox_inches="tight")
    plt.close(figure_)
    return file


def print_outcome(search: Search, best: Mapping[str, Any] | None, directory: Path) -> None:
    """Print the end of a search, and draw it."""
    print("\n" + "\n".join(summary_lines(search, best, search.study.importances())), flush=True)
    if search.settings.plots and best is not None:
        try:
            files = draw_plots(search, directory / "figures")
        except (ImportError, OSError) as error:
            print(f"no plots: {error}", file=sys.stderr)
            return
        if files:
            print(f"plots: {', '.join(file.name for file in files)} in {files[0].parent}")
