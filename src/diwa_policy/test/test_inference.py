"""Decisions by ONNX Runtime equal PyTorch's."""

import pytest
import torch
from policy_samples import LATENT, small_policy

from diwa_conventions.errors import UserError
from diwa_policy.policy import draw_noise
from diwa_policy.serving import inference as module
from diwa_policy.serving.inference import inference


@pytest.mark.parametrize(
    "settings",
    [{}, {"kind": "gaussian"}, {"sampler": "ddim", "ddim_steps": 2}, {"fine_tuned_steps": 2}],
    ids=["ddpm", "gaussian", "ddim", "fine-tuned"],
)
def test_onnx_runtime_decides_as_pytorch_does(settings):
    policy = small_policy(**settings)
    served = inference(policy, "onnx")
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn((1, LATENT), generator=generator)
    noise = draw_noise((1, policy.steps + 1, policy.chunk), generator)
    assert served.backend == "onnx"
    torch.testing.assert_close(served.decide(latent, noise), policy.act(latent, noise)[0], atol=1e-5, rtol=0.0)


def test_pytorch_steps_in_where_the_export_fails(monkeypatch):
    monkeypatch.setattr(module, "exported", lambda policy: b"no model")
    served = inference(small_policy(), "auto")
    assert served.backend == "torch" and "ONNX Runtime cannot" in served.note
    with pytest.raises(UserError, match="ONNX Runtime cannot compute this policy"):
        inference(small_policy(), "onnx")


def test_an_export_that_computes_something_else_is_not_used(monkeypatch):
    other = module.exported(small_policy(seed=1))
    monkeypatch.setattr(module, "exported", lambda policy: other)
    served = inference(small_policy(seed=0), "auto")
    assert served.backend == "torch" and "differ from PyTorch's" in served.note
