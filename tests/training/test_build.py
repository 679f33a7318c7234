from rlx.config.compose import compose
from rlx.experiment import assemble
from rlx.report.terminal import TrainView
from rlx.training.build import build_loop
from rlx.training.stop import Stop
from tests.training.conftest import SMALL


def test_only_an_algorithm_whose_reference_moves_has_one_beside_the_evaluators():
    for words, is_same in ((["algorithm=dpo"], True), (["algorithm=dpo", "loss=tr_dpo"], False)):
        cfg = compose("train", [*SMALL, *words])
        loop = build_loop(cfg, assemble(cfg), None, TrainView(), Stop())
        assert (loop.reference is loop.evaluator.reference) == is_same
        assert loop.progress.step == 0
