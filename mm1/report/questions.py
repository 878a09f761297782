"""Report section of test questions: images, shots, the right answer and the models'
answers."""

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from mm1.eval.controls import is_control
from mm1.report.page import (
    Html,
    badge,
    card_grid,
    missing,
    plural,
    section,
    tag,
    thumbnail,
)
from mm1.runs.results import RunFolder

MAX_QUESTIONS = 12


@dataclass(frozen=True, slots=True)
class AnsweredQuestion:
    """A question with the answers of two models; `before` is None if the earlier model
    was not evaluated."""

    run: RunFolder
    benchmark: str
    shots: int
    line: dict[str, Any]
    before: dict[str, Any] | None

    @property
    def right(self) -> bool:
        return is_right(self.line)


def is_right(line: dict[str, Any]) -> bool:
    """Graded scores (VQA accuracy, CIDEr) of at least one half count as right."""
    return float(line.get("score") or 0.0) >= 0.5


def questions_section(before: RunFolder, after: RunFolder) -> Html:
    """Two questions of every benchmark: one answered right and one wrong, if there are
    both."""
    run = after if after.scores else before
    chosen = _choose(run, before if run is after else None)
    note = (
        "Of each task the first question answered right and the first answered wrong,"
        " where there are both, so wrong answers may be more frequent here than in the"
        " scores. The question is framed; its shots stand before it."
    )
    if not chosen:
        what = missing(
            f"No predictions with pictures in {before.name} or {after.name}."
        )
        return section("Questions and answers", what, anchor="questions")
    cards = card_grid(*(_question(each) for each in chosen))
    return section(
        "Questions and answers", cards, note=note, anchor="questions"
    )


def _choose(run: RunFolder, before: RunFolder | None) -> list[AnsweredQuestion]:
    """Benchmarks take turns in numbers of shots, up to 4, which still fit on a card."""
    chosen: list[AnsweredQuestion] = []
    names = tuple(run.scores)
    plain = [name for name in names if not is_control(name, names)]
    for turn, benchmark in enumerate(plain):
        few = [k for k in run.shots(benchmark) if k <= 4]
        if not few:
            continue
        k = few[(turn + len(few) - 1) % len(few)]
        earlier = (
            {line.get("id"): line for line in before.predictions(benchmark, k)}
            if before
            else {}
        )
        lines = [
            line
            for line in run.predictions(benchmark, k)
            if line.get("pictures")
        ]
        asked = [
            AnsweredQuestion(
                run, benchmark, k, line, earlier.get(line.get("id"))
            )
            for line in lines
        ]
        right = [a for a in asked if a.right]
        wrong = [a for a in asked if not a.right]
        chosen += (right[:1] + wrong[:1] + right[1:] + wrong[1:])[:2]
    return chosen[:MAX_QUESTIONS]


def _question(asked: AnsweredQuestion) -> Html:
    line = asked.line
    mark = badge("right", "good") if asked.right else badge("wrong", "bad")
    meaning = "" if asked.shots else asked.run.zero_shot_prompt(asked.benchmark)
    title = tag(
        "h3",
        asked.benchmark,
        tag(
            "span", f" · {plural(asked.shots, 'shot')}{meaning}", class_="note"
        ),
    )
    truth = line.get("answers") or []
    answers: list[tuple[str, str, str | None]] = [
        ("true answer", " / ".join(dict.fromkeys(map(str, truth))), None)
    ]
    if asked.before is not None:
        answers.append(
            (
                "before tuning",
                asked.before.get("prediction", ""),
                _right_or_wrong(asked.before),
            )
        )
    given = "given" if asked.before is None else "after tuning"
    answers.append((given, line.get("prediction", ""), _right_or_wrong(line)))
    listed = [
        cell
        for name, answer, look in answers
        for cell in (
            tag("dt", name),
            tag("dd", str(answer).strip() or "(nothing)", class_=look),
        )
    ]
    body = (
        tag("header", title, mark),
        _prompt(asked),
        tag("dl", *listed, class_="answers"),
    )
    return tag("article", *body, class_="card question")


def _right_or_wrong(line: dict[str, Any]) -> str:
    return "right" if is_right(line) else "wrong"


def _prompt(asked: AnsweredQuestion) -> Html:
    """A box for each shot and one for the question: images above the text that follows
    them."""
    words = str(asked.line.get("prompt", "")).split("<image>")
    pictures = asked.line.get("pictures") or []
    opening = words[0].strip()
    after = words[1:]
    # Every shot has as many images as the question, so equal groups of images are the
    # shots.
    each, rest = divmod(len(pictures), asked.shots + 1)
    size = each if each and not rest else 1
    cells = list(zip_longest(pictures, after))
    groups = [cells[i : i + size] for i in range(0, len(cells), size)]
    boxes = (
        [tag("div", tag("p", opening), class_="shot words")] if opening else []
    )
    for i, group in enumerate(groups):
        inside = []
        for j, (picture, text) in enumerate(group):
            name = f"picture {i * size + j + 1}"
            inside.append(
                thumbnail(
                    asked.run.picture(str(picture)) if picture else None, name
                )
            )
            if text and text.strip():
                inside.append(tag("p", text.strip()))
        last = i == len(groups) - 1
        boxes.append(
            tag("div", *inside, class_="shot asked" if last else "shot")
        )
    return tag("div", *boxes, class_="prompt")
