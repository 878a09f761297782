"""Compiled float8 blocks against uncompiled ones; `test_float8.py` runs it as a
process."""

import torch

from mm1.nn.attention import FullAttention
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.nn.float8 import use_float8

CONFIG = LanguageModel.Config(
    decoder=Decoder.Config(depth=1, dim=32, num_heads=2, hidden_dim=48)
)


def main() -> None:
    torch.manual_seed(0)
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    context = FullAttention(causal=True)
    for dtype in (torch.float32, torch.bfloat16):
        models = [
            CONFIG.build(vocab_size=31).to(device, dtype) for _ in range(2)
        ]
        for model in models:
            assert use_float8(model, torch.device(device)) == 4
        plain, compiled = (model.decoder.blocks[0] for model in models)
        compiled.load_state_dict(plain.state_dict())
        compiled.compile(
            backend="inductor" if cuda else "aot_eager", fullgraph=True
        )
        for length in (32, 21):
            x = torch.randn(2, length, 32, device=device, dtype=dtype)
            results = []
            for block in (plain, compiled):
                block.zero_grad()
                given = x.clone().requires_grad_()
                out = block(given, context)
                out.float().square().mean().backward()
                results.append(
                    [out, given.grad, *(p.grad for p in block.parameters())]
                )
            for a, b in zip(*results, strict=True):
                # The same operations on the CPU. Inductor fuses: a value rounded in
                # another place may take the next of float8's steps.
                error = (a - b).float().norm() / a.float().norm()
                assert error <= (0.02 if cuda else 1e-6), error


main()
