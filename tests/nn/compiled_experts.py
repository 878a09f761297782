"""Compiled experts against uncompiled ones; `test_experts.py` runs it as a process."""

import torch

from mm1.nn.experts import MoE

CONFIG = MoE.Config(num_experts=4, capacity_factor=1.0)


def main() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        plain, compiled = (
            CONFIG.build(dim=16, hidden_dim=24, gain=1.0).to(dtype)
            for _ in range(2)
        )
        compiled.load_state_dict(plain.state_dict())
        compiled.compile(backend="aot_eager")
        for length in (20, 33, 40):
            x = torch.randn(length, 16, dtype=dtype)
            valid = torch.arange(length) % 7 != 2
            results = []
            for module in (plain, compiled):
                module.zero_grad()
                out, routing = module(x, valid)
                (
                    out.float().square().sum() + routing.balance + routing.z
                ).backward()
                results.append(
                    [out, *routing, *(p.grad for p in module.parameters())]
                )
            for a, b in zip(*results, strict=True):
                # The same operations traced; sums may be regrouped.
                torch.testing.assert_close(a, b)


main()
