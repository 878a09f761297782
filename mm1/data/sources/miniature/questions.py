"""The n-th question of a test, with the answer that is right; shots are questions of the split "train".

    named        <image> what colour ? -> red             the question says what is asked
    unnamed      <image> -> red                           only the shots say it: without any there is no telling
    new labels   <image> -> cat                           only the shots say which colour is called "cat"
    fact         three plus four is -> seven              no picture
    copy         cat red dog two ... cat -> red           no picture
"""

from dataclasses import dataclass

from mm1.data.sources.miniature.deal import TASKS, Picture, answer, ask, generator, make_picture
from mm1.data.sources.miniature.deal import STORED
from mm1.data.sources.miniature.text import fact, relabelling
from mm1.data.sources.miniature.world import CANVAS, COLOURS, WORDS, Split, one_of

SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True, slots=True)
class Question:
    picture: Picture | None
    prompt: str
    answer: str


def question(seed: int, task: str, n: int, split: Split, *, named: bool = True) -> Question:
    """The n-th question of one of `TASKS`. "small digit" shows pictures in full size."""
    rng = generator("question", seed, list(TASKS).index(task), SPLITS.index(split), n)
    width = CANVAS if task == "small digit" else STORED
    shown = make_picture(one_of(TASKS[task].kinds, rng), split, rng, width)
    return Question(shown, ask(task, shown.scene) if named else "", answer(task, shown.scene))


def new_labels(seed: int, n: int, num_shots: int) -> list[Question]:
    """The n-th episode: shots, then the question. Two colours are called by two words, at random in each episode."""
    rng = generator("new labels", seed, n)
    names = [str(word) for word in rng.choice(WORDS, size=2, replace=False)]
    colours = [str(colour) for colour in rng.choice(list(COLOURS), size=2, replace=False)]
    questions: list[Question] = []
    while len(questions) <= num_shots:
        shown = make_picture("objects", "test" if len(questions) == num_shots else "train", rng, STORED)
        if shown.scene.colour in colours:
            questions.append(Question(shown, "", names[colours.index(shown.scene.colour)]))
    return questions


def text_fact(seed: int, n: int) -> Question:
    """A fact whose last word is left out."""
    words = " ".join(fact(generator("fact", seed, n))).split()
    return Question(None, " ".join(words[:-1]), words[-1])


def text_copy(seed: int, n: int) -> Question:
    """A list of four relabelled words that has shown each of them before, cut before the last label."""
    rng = generator("copy", seed, n)
    while True:
        words = relabelling(rng, num_pairs=4, length=13)
        if words[-2] in words[:-2:2]:
            return Question(None, " ".join(words[:-1]), words[-1])
