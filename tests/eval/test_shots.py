"""Which demonstrations would give the answer away."""

import tiny

from mm1.data.document import Document, Text
from mm1.eval.shots import select_shots


def chosen(shots: list[Document], prompt: Document, num: int) -> list[Document]:
    return select_shots(
        iter(range(len(shots))), shots.__getitem__, prompt, num, "q"
    )


def shot(picture: int | None, question: str, answer: str) -> Document:
    image = () if picture is None else (tiny.picture(picture),)
    return Document((*image, Text(question), Text(answer)))


def test_a_shot_with_the_picture_of_the_question_is_left_out() -> None:
    """Also under another question, and where the picture is one of several."""
    prompt = Document((tiny.picture(3), Text("how many?")))
    twice = Document(
        (tiny.picture(5), tiny.picture(3), Text("what is it?"), Text(" ox"))
    )
    shots = [
        shot(3, "what is it?", " a cat"),
        twice,
        shot(4, "how many?", " two"),
        shot(6, "what is it?", " a dog"),
    ]
    assert chosen(shots, prompt, 2) == shots[2:]


def test_a_shot_with_the_same_question_is_left_out() -> None:
    """Without pictures: of the same text, the answer follows."""
    prompt = Document((Text("three plus four is"),))
    shots = [
        shot(None, "three plus four is", " seven"),
        shot(None, "two plus two is", " four"),
        shot(None, "three plus four is", " eight"),
        shot(None, "one plus two is", " three"),
    ]
    assert chosen(shots, prompt, 2) == [shots[1], shots[3]]
