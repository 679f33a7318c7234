import torch

from rlx.policy.precision import matmul_peak


def test_a_matrix_product_is_measured():
    assert matmul_peak(torch.float32, size=64, seconds=0.01) > 1e6
