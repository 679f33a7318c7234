from rlx.report.bench import PHASES, bench_lines, spread_text, write_plot


def spread(median, low=None, high=None):
    return {"median": median, "low": median if low is None else low, "high": median if high is None else high}


def result(**changes):
    def summary(speed):
        figures = ("completions_per_second", "steps_per_second", "matmul_share", "score_before", "score_at_seconds")
        return {
            "tokens_per_second": spread(speed, speed / 2, speed * 2),
            "peak_memory_bytes": spread(3 * 2**20),
            "score_at_tokens": {"median": None, "low": None, "high": None},
            "evaluation_seconds": spread(0.5),
            "phase_milliseconds": {phase: spread(speed + number) for number, phase in enumerate(PHASES)},
            **{name: spread(0.25) for name in figures},
        }

    algorithms = {name: {"summary": summary(speed)} for name, speed in (("slow", 100.0), ("my_lab.Fast$_", 1000.0))}
    budget = {"rounds": 3, "tokens": 5000, "seconds": 8}
    return {"task": "sums\x1b[2J", "machine": {"threads": 2}, "budget": budget, "algorithms": algorithms, **changes}


def test_a_column_an_algorithm_and_a_row_a_figure():
    lines = bench_lines(result())
    assert lines[0].split() == ["slow", "my_lab.Fast$_"]
    rows = {line[:28].strip(): line[28:].split("  ") for line in lines[1:] if line}
    assert [cell.strip() for cell in rows["tokens/s"] if cell.strip()] == ["100 [50, 200]", "1,000 [500, 2,000]"]
    assert [cell.strip() for cell in rows["peak memory, MiB"] if cell.strip()] == ["3", "3"]
    assert [cell.strip() for cell in rows["score after 5,000 tokens"] if cell.strip()] == ["-", "-"]
    assert [cell.strip() for cell in rows["backward, ms a step"] if cell.strip()] == ["102", "1,002"]


def test_the_text_of_a_file_steers_no_terminal():
    assert not any("\x1b" in line for line in bench_lines(result()))


def test_rounds_that_agree_need_no_brackets():
    assert spread_text(spread(0.5), 100) == "50"


def test_the_plot_is_a_picture_even_where_a_score_was_not_reached(tmp_path):
    data = result()
    data["algorithms"]["slow"]["summary"]["score_at_seconds"] = {"median": None, "low": None, "high": None}
    write_plot(data, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
