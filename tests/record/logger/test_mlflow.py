"""MLflow's own client sees every step once."""

import time
from pathlib import Path

import pytest

from rlx.record.logger.mlflow import _SETTINGS, MlflowLogger, _database, _name


def test_names_that_mlflow_refuses_are_mended() -> None:
    assert _name("train/loss") == "train/loss"
    assert _name("a<b>=1") == "a_b__1"


def test_a_database_is_a_file_and_a_server_is_none() -> None:
    assert _database("sqlite:///outputs/mlflow.db") == Path("outputs/mlflow.db")
    assert _database("sqlite:////tmp/mlflow.db") == Path("/tmp/mlflow.db")
    assert _database("http://localhost:5000") is None


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_after_a_resume_no_step_is_there_twice(watched, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    watched(lambda: MlflowLogger(tracking_uri=uri, experiment="rlx", name=None, tags={"who": "me"}, flush_seconds=60.0))
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("rlx")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["loss.beta"] == "0.1"
    assert run.data.tags["who"] == "me"
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")] == list(range(10))
    history = client.get_metric_history(run.info.run_id, "eval/score")
    assert [(metric.step, metric.value) for metric in history] == [(step, step / 10) for step in range(0, 10, 2)]
    assert len(client.list_artifacts(run.info.run_id, "samples")) == 5


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_server_that_is_not_there_is_given_up_soon(monkeypatch) -> None:
    pytest.importorskip("mlflow")
    for name in _SETTINGS:
        monkeypatch.delenv(name, raising=False)
    began = time.monotonic()
    uri = "http://127.0.0.1:9"
    with pytest.raises(Exception, match="Max retries exceeded"):
        MlflowLogger(tracking_uri=uri, experiment="rlx", name=None, tags={}, flush_seconds=60.0).open(None)
    assert time.monotonic() - began < 60
