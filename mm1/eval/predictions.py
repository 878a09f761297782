"""The predictions of an evaluator as files in a run folder.

predictions/
    digits-4shot.jsonl         a question a line, with prompt, prediction and score
    digits-4shot-draw2.jsonl   the same after other shots, if there are several draws
    digits-4shot/17-0.png      images of the first few prompts, listed in their lines
"""

import re
from pathlib import Path

from PIL import Image as Pillow

from mm1 import dist
from mm1.data.image_processing import decode_image, resize
from mm1.eval.evaluator import Evaluator, Line
from mm1.files import write_jsonl

NUM_WITH_IMAGES = 12
"""Questions of each benchmark whose images are written, for reports."""
LONGEST_SIDE = 384
"""Written images are scaled down to this, in pixels."""


def write_predictions(
    path: Path, lines: list[Line], evaluator: Evaluator, num_shots: int, draw: int
) -> None:
    """Writes the lines on rank 0, and for the first draw the images of the first
    prompts, which are added to their lines as `pictures`."""
    if dist.rank() != 0:
        return
    if draw == 0:
        for number, line in zip(
            evaluator.chosen[:NUM_WITH_IMAGES], lines, strict=False
        ):
            line["pictures"] = _write_images(evaluator, number, num_shots, line, path)
    write_jsonl(path, lines)


def _write_images(
    evaluator: Evaluator, number: int, num_shots: int, line: Line, path: Path
) -> list[str]:
    """Their files, relative to the run folder."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for i, image in enumerate(evaluator.images(number, num_shots)):
        file = folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', line['id'])}-{i}.png"
        scale = min(1.0, LONGEST_SIDE / max(image.width, image.height))
        height = max(1, round(image.height * scale))
        width = max(1, round(image.width * scale))
        pixels = resize(decode_image(image.data), (height, width)).permute(1, 2, 0)
        Pillow.fromarray(pixels.numpy()).save(file)
        files.append(file.relative_to(path.parent.parent).as_posix())
    return files
