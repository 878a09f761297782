"""Opens an exported folder as a user without mm1 does, and writes its outputs. Runs
by itself, in any environment:

    python -I open_export.py EXPORT REQUEST.json OUT

The request names texts with their pictures; OUT gets `answers.json` and
`tensors.safetensors`.
"""

import json
import sys
from pathlib import Path
from typing import Any

ABSENT = ("mm1", "jaxtyping", "beartype", "torchvision")


class Absent:
    """Hides these modules even if they are installed."""

    def find_spec(
        self, name: str, path: Any = None, target: Any = None
    ) -> None:
        if name in ABSENT[:3]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def open_and_ask(folder: str, request: str, out: str) -> None:
    import torch
    import transformers
    from safetensors.torch import save_file
    from transformers import AutoModelForImageTextToText, AutoProcessor

    asked = json.loads(Path(request).read_text())
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(
        folder, trust_remote_code=True, dtype=torch.float32
    ).eval()
    tensors = {}
    answers = {"version": transformers.__version__, "texts": []}

    def answer(inputs: Any) -> list[str]:
        tokens = model.generate(**inputs, max_new_tokens=asked["max_tokens"])
        return processor.batch_decode(
            tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )

    with torch.no_grad():
        for number, batch in enumerate(asked["batches"]):
            inputs = processor(
                images=[Path(path).read_bytes() for path in batch["images"]],
                text=batch["texts"],
            )
            tensors |= {
                f"{number}.{name}": tensor for name, tensor in inputs.items()
            }
            tensors[f"{number}.logits"] = model(**inputs).logits
            answers["texts"].append(answer(inputs))
    answers["loaded"] = sorted(name for name in ABSENT if name in sys.modules)
    save_file(tensors, Path(out) / "tensors.safetensors")
    (Path(out) / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    sys.meta_path.insert(0, Absent())  # type: ignore[arg-type]
    open_and_ask(*sys.argv[1:])
