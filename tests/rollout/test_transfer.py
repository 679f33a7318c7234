"""Weights that are broadcast to a server's workers, by vLLM's protocol; gloo stands for NCCL, which needs a GPU."""

import subprocess
import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open

from rlx.errors import ConfigError, TrainingError
from rlx.policy.tiny import build_tiny
from rlx.rollout import server as servers
from rlx.rollout import sync
from rlx.rollout.sync import require_sync, send_broadcast
from tests.rollout.fake_vllm import faking
from tests.rollout.test_sync import SHAPE, draw, moved, policy_of, sampler_of

NCCL_GROUP = sync.NcclGroup


class GlooGroup:
    """The same group with gloo. Its id is the port of its store."""

    def __init__(self, workers, device, timeout):
        self.limit = timedelta(seconds=timeout)
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=self.limit)
        self.size = workers + 1

    def meet(self):
        self.group = dist.ProcessGroupGloo(self.store, 0, self.size, self.limit)
        self.group.allreduce(torch.ones(1)).wait()

    def unique_id(self):
        return str(self.store.port).encode().ljust(128)

    def broadcast(self, tensor):
        return self.group.broadcast(tensor, root=0)

    def close(self):
        self.group = None


@pytest.fixture(autouse=True)
def gloo(monkeypatch):
    monkeypatch.setattr(sync, "NcclGroup", GlooGroup)
    monkeypatch.setattr(servers, "require_sync", lambda sync, policy: None)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    directory = tmp_path_factory.mktemp("base")
    build_tiny(**SHAPE).model.save_pretrained(directory)
    return directory


def draws(server, tmp_path, *, count=3, **settings):
    policy, sampler = policy_of("disk"), sampler_of(server, "nccl", **settings)
    with sampler.running(tmp_path, policy):
        sampler.prepare(policy)
        for version in range(count):
            draw(sampler, policy, version)
            moved(policy, version)
    return sampler


def test_the_workers_have_the_weights_of_every_draw(base, tmp_path):
    with faking(base) as server:
        figures = draws(server, tmp_path).figures()
        assert figures["weights_version"] == 2
        assert 0 < figures["sampling_gap"] < figures["sampling_gap_largest"] < 1e-4
        assert server.version == "2"
        once = ["/start_weight_update", "/update_weights", "/finish_weight_update", "/reset_prefix_cache", "/resume"]
        once.insert(0, "/pause?mode=wait")
        assert server.asked == ["/init_weight_transfer_engine", *once * 3, "/shutdown_weight_transfer_engine"]


def test_what_is_sent_is_what_a_checkpoint_holds(base, tmp_path):
    policy = policy_of("disk")
    with faking(base) as server:
        sampler = sampler_of(server, "nccl")
        opened = sync.Transfer.open(sampler.client, policy.device)
        send_broadcast(opened, sampler.client, policy, version=0)
    policy.model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert set(server.received) == set(file.keys())
        for name in file.keys():  # noqa: SIM118  # safe_open is not a mapping
            assert torch.equal(server.received[name], file.get_tensor(name))


def test_an_adapter_arrives_within_whole_weights(base, tmp_path):
    policy = policy_of("adapter")
    moved(policy, 0)
    with faking(base) as server:
        sampler = sampler_of(server, "nccl")
        with sampler.running(tmp_path, policy):
            draw(sampler, policy, 1)
        assert sampler.figures()["sampling_gap_largest"] < 1e-4


def test_a_transfer_that_was_answered_and_not_made_is_found(base, tmp_path):
    with faking(base, stale_every=3) as server, pytest.raises(TrainingError, match=r"of version 2: .* it answers as before"):
        draws(server, tmp_path)


@pytest.mark.parametrize("path", ["/init_weight_transfer_engine", "/start_weight_update", "/finish_weight_update"])
def test_a_server_that_refuses_ends_the_run_with_its_words(path, base, tmp_path):
    with faking(base, refuses=path) as server, pytest.raises(ConfigError, match=f"refuses {path[1:]} with status 400"):
        draws(server, tmp_path, timeout=5.0)
    assert not server.is_paused


def test_a_server_that_refuses_the_list_does_not_hang_the_broadcast(base, tmp_path):
    with faking(base, refuses="/update_weights") as server, pytest.raises((ConfigError, TrainingError), match="update_weights"):
        draws(server, tmp_path, timeout=2.0, wait=0.1)


def test_workers_that_leave_in_the_middle_end_the_run(base, tmp_path):
    with (
        faking(base, leaves=True) as server,
        pytest.raises(TrainingError, match=r"a worker is gone|weights did not reach the server"),
    ):
        draws(server, tmp_path, timeout=5.0)


def test_a_server_that_died_and_came_back_joins_a_new_group(base, tmp_path):
    with faking(base, dies_at=9, comes_back=True) as server:
        sampler = draws(server, tmp_path, count=2)
        assert sampler.figures()["draws_repeated"] == 1
        assert sampler.figures()["sampling_gap_largest"] < 1e-4
        assert server.asked.count("/init_weight_transfer_engine") == 2


def test_weights_on_a_cpu_have_no_such_way():
    with pytest.raises(ConfigError, match=r"rollout\.sync=nccl sends weights from GPU to GPU, and this policy is on cpu"):
        require_sync("nccl", policy_of("disk"))


OTHER = """
import sys, torch, torch.distributed as dist
store = dist.TCPStore("127.0.0.1", int(sys.argv[1]), is_master=False, wait_for_workers=False)
group = dist.ProcessGroupNCCL(store, 1, 2)
group.allreduce(torch.ones(1, device="cuda:1")).wait()
tensor = torch.empty(3, device="cuda:1")
group.broadcast(tensor, root=0).wait()
print(tensor.tolist())
"""


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_group_of_nccl_leaves_its_id_and_broadcasts():
    group = NCCL_GROUP(1, torch.device("cuda:0"), 60.0)
    with subprocess.Popen([sys.executable, "-c", OTHER, str(group._store.port)], stdout=subprocess.PIPE, text=True) as other:
        group.meet()
        assert len(group.unique_id()) == 128
        group.broadcast(torch.tensor([1.0, 2.0, 3.0], device="cuda:0")).wait()
        torch.cuda.synchronize()
        assert other.communicate(timeout=60)[0] == "[1.0, 2.0, 3.0]\n"
    group.close()
