"""What `make lessons` claims, and when it was stated: seeds that nothing had been run
with, and the designs that the lessons replaced.

`studies/stated.md` is this statement as text, made by `mm1 study lessons --state`. A
lesson that is changed after its runs becomes a new one: with new seeds, a new date, and
its results added to `FIRST_DESIGNS`.
"""

from dataclasses import replace

from mm1.study.study import Study

STATED = "2026-11-29"
SEEDS = (11, 12, 13)
PIXEL_SEEDS = tuple(range(21, 33))
"""Twelve: with the effect and the spread that seven seeds had shown, the power is
0.99."""

OPEN = "any word counted, seeds 0 to 2"
FIRST_DESIGNS = {
    "Interleaved pages bring few-shot performance": (
        f"2026-11-26, {OPEN}: +59.3 +- 13.3",
    ),
    "Text-only data help few-shot performance (captions)": (
        f"2026-11-26, {OPEN}: +0.5 +- 2.3, undecided",
    ),
    "Isolation helps few-shot performance": (
        "2026-11-26, the C-Abstractor as the base, any word counted: +- 28, undecided",
        f"2026-11-26, {OPEN}: +20.1 +- 15.8",
    ),
    "More tokens help": (
        "2026-11-26, 16 against 4 tokens, 120 steps, 4 shots: -23.1 +-"
        " 13.3, does not hold",
        "2026-11-26, 4 against 1, 120 steps, four things: +27.2 +- 16.1",
    ),
    "The number of tokens matters more than the kind of connector": (
        "2026-11-26, 16 against 4 tokens, 120 steps, 4 shots: does not hold",
        "2026-11-26, 4 against 1, 120 steps, four things: undecided",
    ),
    "Contrast beats reconstruction": (f"2026-11-26, {OPEN}: +28.6 +- 13.2",),
    "A trained encoder helps": (f"2026-11-26, {OPEN}: +33.9 +- 10.3",),
    "More pixels help": (
        f"2026-11-26, {OPEN}, on a GPU: +7.8 +- 18.2, undecided",
        f"2026-11-26, {OPEN}: +10.8 +- 4.3",
    ),
    "More pixels help more than a larger encoder": (
        "2026-11-26, 48 px, any word counted: -5.7 +- 27.0, undecided",
        f"2026-11-26, 32 px, {OPEN}: +8.4 +- 17.8, undecided",
        "2026-11-26, the same, seeds 3 to 6: +4.2 +- 5.5, undecided",
    ),
}
"""Lesson -> designs that were run and then changed, with their results."""


def stated(study: Study, seeds: tuple[int, ...] = SEEDS) -> Study:
    """The study with its seeds, its date, and its lessons' first designs."""
    lessons = tuple(
        replace(lesson, earlier=FIRST_DESIGNS.get(lesson.text, ()))
        for lesson in study.lessons
    )
    return replace(study, lessons=lessons, seeds=seeds, stated=STATED)
