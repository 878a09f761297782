"""CPU time saved by reading shots that all questions share only once (`same_shots`).

    python benchmarks/few_shot.py [--shots 8] [--questions 32]

A small model with random weights answers the same prompts both ways, alternately, in
one process and one thread. CPU time is measured, so that other work on the machine
hardly counts; the result is the ratio of the two, and whether answers agree.
"""

import argparse
import io
import statistics
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image as Pillow

from mm1.data.document import Document, Image, Text
from mm1.data.image_processing import ImageProcessor
from mm1.data.render import Renderer
from mm1.data.tokenizer import train_tokenizer
from mm1.infer.predictor import Predictor
from mm1.nn.connectors.average_pool import AveragePool
from mm1.nn.decoder import Decoder
from mm1.nn.mm1 import MM1
from mm1.nn.vit import ViT

SIZE = 96
TOKENS_PER_IMAGE = 36
ROUNDS = 3
MAX_TOKENS = 8
QUESTION = "Question: what colour is the thing on the left? Short answer:"
ANSWER = " a dark red\n"


def predictor(folder: Path) -> Predictor:
    tokenizer = train_tokenizer(
        [QUESTION + ANSWER], folder / "tokenizer.json", vocab_size=300
    )
    torch.manual_seed(0)
    model = MM1.Config(
        encoder=ViT.Config(
            image_size=SIZE, patch_size=8, depth=3, dim=256, num_heads=4
        ),
        connector=AveragePool.Config(num_tokens=TOKENS_PER_IMAGE),
        decoder=Decoder.Config(depth=4, dim=256, num_heads=8, num_kv_heads=4),
    ).build(vocab_size=tokenizer.vocab_size)
    renderer = Renderer(
        tokenizer, ImageProcessor((SIZE, SIZE)), TOKENS_PER_IMAGE
    )
    return Predictor(model.eval(), renderer, torch.device("cpu"))


def noise_image(number: int) -> Image:
    pixels = torch.randint(
        0,
        256,
        (SIZE, SIZE, 3),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(number),
    )
    buffer = io.BytesIO()
    Pillow.fromarray(pixels.numpy()).save(buffer, "PNG")
    return Image(buffer.getvalue(), SIZE, SIZE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--questions", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shots = [
        Document((noise_image(i), Text(QUESTION), Text(ANSWER)))
        for i in range(arguments.shots)
    ]
    asked = [
        Document((noise_image(1000 + i), Text(QUESTION)))
        for i in range(arguments.questions)
    ]
    prompts = [sum(shots, Document(())) + question for question in asked]
    with tempfile.TemporaryDirectory() as folder:
        model = predictor(Path(folder))
    model.generate(prompts[:2], max_tokens=1)  # warm up
    times: dict[bool, list[float]] = {False: [], True: []}
    answers = {}
    for _ in range(ROUNDS):
        for share_prefix in times:
            start = time.process_time()
            answers[share_prefix] = model.generate(
                prompts, max_tokens=MAX_TOKENS, share_prefix=share_prefix
            )
            times[share_prefix].append(time.process_time() - start)
    separate, shared = (
        statistics.median(times[each]) for each in (False, True)
    )
    lengths = [
        len(model.renderer(document, end=False).tokens)
        for document in (prompts[0], asked[0])
    ]
    print(
        f"{arguments.questions} questions after {arguments.shots} shots: {lengths[0]}"
        f" tokens, {lengths[1]} of them the question"
    )
    print(
        f"read with each question / read once: {separate / shared:.1f} times the CPU"
        f" time (median of {ROUNDS} rounds each)"
    )
    ratios = sorted(a / b for a in times[False] for b in times[True])
    same = answers[True] == answers[False]
    print(
        f"any round against any other: {ratios[0]:.1f} to {ratios[-1]:.1f}; same"
        f" answers: {same}"
    )


main()
