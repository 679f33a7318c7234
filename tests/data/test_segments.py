"""Segments of a row: what attention branch by branch lets each token see is what a mask would."""

import torch
from hypothesis import given, settings

from rlx.data.layout import shared_prefix_rows
from tests.data.test_layout import expected_histories, sequences


@given(sequences())
@settings(deadline=None, max_examples=200)
def test_each_token_sees_its_prompt_and_what_precedes_it(batch):
    rows = shared_prefix_rows(batch, branched=True)
    segments, tokens = rows.segments, rows.tokens[0]
    sees = {}
    for number, (trunk, branches) in enumerate(zip(segments.trunks, segments.branches, strict=True)):
        visible = segments.visible[number % len(segments.visible)]
        for offset, place in enumerate(trunk.tolist()):
            sees.setdefault(place, tokens[trunk[: offset + 1]].tolist())
        for branch in branches:
            for offset, place in enumerate(branch.tolist()):
                sees.setdefault(place, tokens[torch.cat([trunk, branch])[visible[offset]]].tolist())
    assert [sees[place] for place in rows.predictors.tolist()] == expected_histories(batch)


@given(sequences())
@settings(deadline=None, max_examples=100)
def test_every_token_is_found_again(batch):
    rows = shared_prefix_rows(batch, branched=True)
    places = torch.cat([rows.segments.trunks.flatten(), rows.segments.branches.flatten()])
    assert places[rows.segments.back].tolist() == list(range(rows.tokens.shape[1]))
    assert rows.attention_mask is None
