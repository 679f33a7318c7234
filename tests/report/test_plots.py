import struct

from rlx.report.plots import plain_label, write_figures


def test_every_figure_as_pdf_and_png(ordinary, tmp_path):
    write_figures(ordinary, tmp_path)
    names = {path.stem for path in tmp_path.iterdir()}
    assert names == {
        "scores",
        "differences",
        "improvement",
        "curves",
        "profile",
        "setting_0",
        "pareto_kl",
        "pareto_tokens",
        "search",
    }
    for name in names:
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        png = (tmp_path / f"{name}.png").read_bytes()
        width, height = struct.unpack(">II", png[16:24])
        assert 1000 < width < 3000
        assert 300 < height < 3000


def test_hostile_labels_are_drawn_as_they_are(hostile, tmp_path):
    assert len(write_figures(hostile, tmp_path)) > 10


def test_labels_are_no_formulas():
    assert plain_label("$x_1$\x1b") == r"\$x_1\$\x1b"
    assert len(plain_label("y" * 200)) <= 48
