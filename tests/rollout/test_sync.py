"""Weights that are sent to a server before each draw, and servers that lie about having them."""

import numpy as np
import pytest
import torch

from rlx.client import NotThereError
from rlx.errors import ConfigError, TrainingError
from rlx.policy.adapter import Lora
from rlx.policy.tiny import build_tiny
from rlx.rollout.server import ServerSampler
from rlx.rollout.sync import ADAPTER_NAME, require_sync
from rlx.seeding import Stream
from tests.rollout.fake_vllm import faking

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_layers": 2}
PEFT = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of peft, in the fake server
pytestmark = PEFT


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The directory of the model that the server starts with."""
    directory = tmp_path_factory.mktemp("base")
    policy = build_tiny(**SHAPE)
    policy.model.save_pretrained(directory)
    return directory


def policy_of(sync):
    return build_tiny(**SHAPE, adapter=Lora(rank=4, alpha=8.0) if sync == "adapter" else None)


def moved(policy, number, by=0.05):
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))


def sampler_of(server, sync, **changes):
    settings = {
        "temperature": 1.0,
        "top_k": None,
        "top_p": None,
        "min_p": None,
        "stop": (),
        "max_new_tokens": 8,
        "url": server.url,
        "model": None,
        "logprobs": "raw",
        "concurrency": 3,
        "timeout": 10.0,
        "retries": 1,
        "backoff": 0.01,
        "api_key_variable": None,
        "batch_tokens": 200,
        "sync": sync,
        "wait": 20.0,
    }
    return ServerSampler(**{**settings, **changes})


def draw(sampler, policy, version, prompts=2, group_size=3):
    """One draw of the loop: the weights are sent, then completions asked for."""
    sampler.refresh(policy, version=version)
    tokens = [np.array([5 + number, 20, 30]) for number in range(prompts)]
    return sampler.sample(
        policy, tokens, group_size=group_size, stream=Stream(0, ("rollout", version)), prompt_keys=range(prompts)
    )


def draws(server, sync, tmp_path, *, count=3, by=0.05, **settings):
    """The sampler after so many draws, with an update of the policy between two of them."""
    policy, sampler = policy_of(sync), sampler_of(server, sync, **settings)
    with sampler.running(tmp_path, policy):
        sampler.prepare(policy)
        for version in range(count):
            draw(sampler, policy, version)
            moved(policy, version, by)
    return sampler


@pytest.mark.parametrize("sync", ["adapter", "disk"])
def test_a_server_that_is_honest_is_given_the_weights_before_every_draw(sync, base, tmp_path):
    with faking(base) as server:
        sampler = draws(server, sync, tmp_path)
        figures = sampler.figures()
        assert figures["weights_version"] == 2
        assert 0 < figures["sampling_gap"] < figures["sampling_gap_largest"] < 1e-4
        assert server.syncs == 3
        once = ["/pause?mode=wait", "/collective_rpc", "/reset_prefix_cache", "/update_weight_version", "/resume"]
        assert server.asked == (["/v1/load_lora_adapter"] if sync == "adapter" else once) * 3
        assert list(server.served) == (["tiny", ADAPTER_NAME] if sync == "adapter" else ["tiny"])
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_there_are_not_sent_again(base, tmp_path):
    with faking(base) as server:
        policy, sampler = policy_of("disk"), sampler_of(server, "disk")
        with sampler.running(tmp_path, policy):
            for version in (0, 0, 1, 1):
                draw(sampler, policy, version)
            assert [path.name for path in sampler.link.directory.iterdir()] == ["version_1"]
        assert server.syncs == 2


def test_an_adapter_over_whole_weights_is_added_to_them(base, tmp_path):
    policy = policy_of("adapter")
    moved(policy, 0)
    with faking(base) as server:
        sampler = sampler_of(server, "disk")
        with sampler.running(tmp_path, policy):
            draw(sampler, policy, 1)
        assert sampler.figures()["sampling_gap_largest"] < 1e-4


LIES = [
    ("adapter", {"stale_every": 3}, "of version 2: .*Likely cause: it answers as before the sync"),
    ("disk", {"stale_every": 3}, "of version 2: .*Likely cause: it answers as before the sync"),
    ("adapter", {"stale_every": 1}, "of version 1: .*Likely cause: it answers as before the sync"),
    ("disk", {"stale_every": 1}, "of version 1: .*Likely cause: it answers as before the sync"),
    ("adapter", {"half": True}, "of version 1: .*Likely cause: it has other weights"),
    ("adapter", {"temperature": 0.7}, "of version 0: .*Likely cause: it computes at temperature 0.7"),
    ("disk", {"temperature": 1.5}, "of version 0: .*Likely cause: it computes at temperature 1.5"),
    ("adapter", {"forgets_at": 18}, "of version 2: .*Likely cause: it has the weights that the run began with"),
    ("disk", {"forgets_at": 18}, "of version 2: .*Likely cause: it has other weights"),
]


@pytest.mark.parametrize(("sync", "lies", "message"), LIES, ids=lambda value: str(value)[:25])
def test_a_server_that_lies_is_found_within_one_draw(sync, lies, message, base, tmp_path):
    with faking(base, **lies) as server, pytest.raises(TrainingError, match=message):
        draws(server, sync, tmp_path)


@pytest.mark.parametrize("by", [1e-4, 1e-3])
def test_a_small_update_that_did_not_arrive_is_found(by, base, tmp_path):
    with faking(base, stale_every=2) as server, pytest.raises(TrainingError, match=r"of version 1: .* it answers as before"):
        draws(server, "disk", tmp_path, by=by)


@pytest.mark.parametrize("sync", ["adapter", "disk"])
def test_another_model_is_found(sync, tmp_path):
    directory = tmp_path / "other"
    build_tiny(**SHAPE, seed=1).model.save_pretrained(directory)
    stale = {"stale_every": 1} if sync == "disk" else {}
    with faking(directory, **stale) as server, pytest.raises(TrainingError, match=r"of version 0: .*another model"):
        draws(server, sync, tmp_path)


@pytest.mark.parametrize(("samples_at", "side"), [(0.6, "below"), (1.6, "above")])
def test_samples_of_another_temperature_are_found_by_their_likelihood(samples_at, side, base, tmp_path):
    policy = policy_of("disk")
    moved(policy, 0, by=0.15)  # a policy that prefers some tokens: of one that has no preference every temperature is the same
    with faking(base, samples_at=samples_at) as server:
        sampler = sampler_of(server, "disk", compared=None)
        with sampler.running(tmp_path, policy), pytest.raises(TrainingError, match=f"samples at a temperature {side} 1"):
            draw(sampler, policy, 0, prompts=16, group_size=4)


@pytest.mark.parametrize("sync", ["none", "adapter", "disk"])
def test_a_server_that_dies_in_a_draw_is_waited_for_and_the_draw_made_again(sync, base, tmp_path):
    policy = policy_of(sync)
    with faking(base) as server:
        sampler = sampler_of(server, sync)
        with sampler.running(tmp_path, policy):
            moved(policy, 0)
            whole = draw(sampler, policy, 1)
    with faking(base, dies_at=4, comes_back=True) as server:
        sampler = sampler_of(server, sync)
        with sampler.running(tmp_path, policy):
            again = draw(sampler, policy, 1)
        assert sampler.link.repeated >= 1
        assert server.syncs == (0 if sync == "none" else 2)
        assert sync == "none" or sampler.figures()["sampling_gap_largest"] < 1e-4
    assert torch.equal(whole.sampling_logprobs, again.sampling_logprobs)


def test_a_server_that_stays_away_ends_the_run(base, tmp_path):
    with faking(base, dies_at=4) as server:
        policy, sampler = policy_of("disk"), sampler_of(server, "disk", wait=0.2)
        with (
            sampler.running(tmp_path, policy),
            pytest.raises(TrainingError, match=r"did not come back within rollout\.wait=0\.2 s"),
        ):
            draw(sampler, policy, 0)


def test_what_a_sync_needs_is_said():
    with pytest.raises(ConfigError, match=r"rollout\.sync=adapter sends a low-rank adapter.*policy/adapter=lora"):
        require_sync("adapter", policy_of("disk"))
    dora = build_tiny(**SHAPE, adapter=Lora(rank=2, alpha=4.0, dora=True))
    with pytest.raises(ConfigError, match="vLLM does not load DoRA"):
        require_sync("adapter", dora)


@pytest.mark.parametrize(
    ("sync", "said"), [("adapter", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"), ("disk", "VLLM_SERVER_DEV_MODE=1")]
)
def test_a_server_without_these_paths_is_told_how_to_start(sync, said, base, tmp_path, monkeypatch):
    with faking(base) as server:
        answer = server.answer
        monkeypatch.setattr(
            server, "answer", lambda path, body: answer(path, body) if path == "/v1/completions" else (404, b"Not Found")
        )
        policy, sampler = policy_of(sync), sampler_of(server, sync)
        with sampler.running(tmp_path, policy), pytest.raises(NotThereError, match=said):
            draw(sampler, policy, 0)


def test_a_directory_that_cannot_be_written_is_named(base, tmp_path):
    with faking(base) as server:
        policy, sampler = policy_of("disk"), sampler_of(server, "disk")
        with sampler.running(tmp_path, policy):
            sampler.link.directory = tmp_path / "file" / "below"
            (tmp_path / "file").write_text("")
            with pytest.raises(TrainingError, match=r"could not be written to .*rollout\.sync_path"):
                sampler.refresh(policy, version=0)
