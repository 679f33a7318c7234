import torch

from rlx.optimizer.muon import Muon


def test_a_matrix_moves_as_torchs_muon_says_and_a_vector_as_adamw_says():
    torch.manual_seed(0)
    start, gradient = torch.randn(6, 4), torch.randn(6, 4)
    matrices = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    vectors = [torch.nn.Parameter(start[0].clone()) for _ in range(2)]
    tables = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    ours = Muon(
        [{"params": [matrices[0], vectors[0]], "part": "matrix"}, {"params": [tables[0]], "part": "embedding"}],
        lr=0.02,
        weight_decay=0.1,
    )
    theirs = [
        torch.optim.Muon([matrices[1]], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([vectors[1], tables[1]], lr=0.02, weight_decay=0.1),
    ]
    for _ in range(3):
        for parameter in (*matrices, *tables):
            parameter.grad = gradient.clone()
        for parameter in vectors:
            parameter.grad = gradient[0].clone()
        for optimizer in (ours, *theirs):
            optimizer.step()
    for mine, other in (matrices, vectors, tables):
        assert torch.equal(mine, other)
    assert not torch.equal(matrices[0], tables[0])


def test_the_step_of_a_matrix_is_orthogonal():
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([parameter], lr=1.0)
    parameter.grad = torch.randn(8, 8)
    optimizer.step()
    values = torch.linalg.svdvals(parameter.detach())
    assert float(values.max() / values.min()) < 2.5  # a random matrix of this size has a ratio of tens
