"""Several optimizer steps on the same rollouts: what does not change between them is computed once."""

import pytest
import torch
from egrl_module import adapters, build, fit

from embedrl.rl.policy import Policy, PolicyOptions


@pytest.mark.filterwarnings("ignore")
def test_the_reference_reads_the_rollouts_once(tmp_path, monkeypatch):
    read, passes = Policy.reference_log_probs, []

    def counted(policy, batch):
        passes.append(batch)
        return read(policy, batch)

    monkeypatch.setattr(Policy, "reference_log_probs", counted)
    once, epochs = build(inner_epochs=3, policy=PolicyOptions(max_tokens=60)), []
    batch_loss = once._batch_loss
    once._batch_loss = lambda *args: epochs.append(args[0]) or batch_loss(*args)
    fit(once, tmp_path, 6)  # two steps on rollouts
    assert len(passes) > 2  # several micro-batches
    assert len(epochs) == 3 * len(passes)

    again = build(inner_epochs=3, policy=PolicyOptions(max_tokens=60))
    again_loss = again._batch_loss

    def recomputed(batch, kept, advantages, reference, *args):
        found = read(again._policy, batch).logprobs
        assert torch.equal(found, reference)
        return again_loss(batch, kept, advantages, found, *args)

    again._batch_loss = recomputed
    fit(again, tmp_path, 6)
    for name, value in adapters(once).items():
        assert torch.equal(adapters(again)[name], value), name
