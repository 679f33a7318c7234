"""Records of before are read in the form of now."""

from rlx.record.run import up_to_date


def test_a_record_of_before_holds_its_loss_once_when_it_is_read():
    beta = {"_target_": "x.Dpo", "beta": 0.3}
    old = {"loss": beta, "algorithm": {"_target_": "x.A", "loss": dict(beta), "size": 1}, "seed": 3}
    assert up_to_date(old) == {"loss": beta, "algorithm": {"_target_": "x.A", "size": 1}, "seed": 3}
    terms = {"a": {"algorithm": {"_target_": "x.A", "loss": beta}, "loss": beta, "weight": 1.0}}
    new = up_to_date({"loss": None, "algorithm": {"terms": terms}})
    assert new == {"loss": None, "algorithm": {"terms": {"a": {"algorithm": {"_target_": "x.A", "loss": beta}, "weight": 1.0}}}}
    assert up_to_date(new) == new
    hybrid = {"loss": None, "algorithm": {"dpo": {"loss": beta}, "dpo_weight": 0.5}}
    assert up_to_date(hybrid) == hybrid
