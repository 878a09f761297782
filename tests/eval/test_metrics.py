"""VQA accuracy, exact match, Treebank tokens and CIDEr: by hand, and against the
reference implementations."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from mm1.eval.benchmarks.textvqa import TextVqa
from mm1.eval.benchmarks.vizwiz import VizWiz
from mm1.eval.cider import (
    cider,
    cider_of_tokens,
    ptb_tokenize,
    tokenize_captions,
)
from mm1.eval.metrics import (
    exact_match,
    percentage,
    textvqa_normalise,
    vqa_accuracy,
    vqa_normalise,
)

REAL = Path(
    os.environ.get(
        "MM1_REAL_DATA", Path(__file__).parents[2].parent / "shared" / "real"
    )
)
real_data = pytest.mark.skipif(
    not (REAL / "metrics" / "expected.json").is_file(),
    reason=f"no real metric fixtures at {REAL}; set MM1_REAL_DATA",
)


def read(name: str) -> Any:
    return json.loads((REAL / "metrics" / name).read_text(encoding="utf-8"))


# ------------------------------------------------------------------ VQA accuracy


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("Two, dont.", "2 don't"),
        ("The  red\tbus", "red bus"),
        ("none", "0"),
        ("An apple or the pear", "apple or pear"),
        ("09/14/2007", "09 14 2007"),  # a mark away from spaces becomes a space
        (
            "salt -pepper-mill",
            "salt peppermill",
        ),  # next to a space anywhere, it is deleted everywhere
        (
            "10,000 black/white",
            "10000 blackwhite",
        ),  # digit-comma-digit deletes every mark
        ("3.5 lb. a.m.", "3.5 lb am"),  # a full stop before a digit is kept
        ("mountain's at 6:36", "mountain's at 6:36"),
        ("couldnt've couldn'tve", "couldn't've couldn't've"),
        ("somebody'd", "somebodyd"),  # a mistake of the reference
        ("." * 34, ".."),  # it deletes at most 32 full stops
        ("the", ""),
    ],
)
def test_vqa_normalise(answer: str, normal: str) -> None:
    assert vqa_normalise(answer) == normal


@pytest.mark.parametrize(
    ("num_equal", "accuracy"),
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0), (10, 1.0)],
)
def test_vqa_accuracy_counts_the_other_nine(
    num_equal: int, accuracy: float
) -> None:
    others = [f"other {index}" for index in range(10 - num_equal)]
    assert vqa_accuracy("cat", ["cat"] * num_equal + others) == pytest.approx(
        accuracy, abs=1e-15
    )


def test_vqa_accuracy_normalises_only_where_annotators_differ() -> None:
    assert vqa_accuracy("YES.", ["yes"] * 10) == 0.0
    assert vqa_accuracy("YES.", ["yes"] * 9 + ["no"]) == 1.0
    assert vqa_accuracy(" yes\n", ["yes"] * 9 + ["yes\t"]) == 1.0
    assert vqa_accuracy("", ["yes"] * 10) == 0.0


def test_vqa_accuracy_needs_other_annotators() -> None:
    with pytest.raises(ValueError, match="at least two annotators, got 1"):
        vqa_accuracy("yes", ["yes"])


def test_percentage() -> None:
    assert percentage([1.0, 0.3, 0.3]) == 53.33
    with pytest.raises(ValueError, match="no scores"):
        percentage([])


@real_data
def test_vqa_normalise_equals_reference_on_all_pairs() -> None:
    pairs = read("vqa/normaliser_pairs.json")
    assert (
        len(pairs)
        == read("expected.json")["vqa"]["normaliser"]["count"]
        == 1582
    )
    assert [pair for pair in pairs if vqa_normalise(pair[0]) != pair[1]] == []


@real_data
@pytest.mark.parametrize(
    "name",
    [
        "first_annotator",
        "last_annotator",
        "most_common",
        "always_yes",
        "upper_case_with_period",
    ],
)
def test_vqa_accuracy_equals_reference(name: str) -> None:
    expected = read("expected.json")["vqa"][name]
    results = {
        result["question_id"]: result["answer"]
        for result in read(f"vqa/{expected['results']}")
    }
    scores: dict[int, float] = {}
    groups: dict[str, dict[str, list[float]]] = {
        "answer_type": {},
        "question_type": {},
    }
    for question in read("vqa/annotations.json")["annotations"]:
        key = question["question_id"]
        scores[key] = vqa_accuracy(
            results[key], [answer["answer"] for answer in question["answers"]]
        )
        for kind, group in groups.items():
            group.setdefault(question[kind], []).append(scores[key])
    assert percentage(list(scores.values())) == expected["overall"]
    for kind, group in groups.items():
        assert {
            value: percentage(of_value) for value, of_value in group.items()
        } == expected[f"per_{kind}"]
    if (REAL / "metrics" / "vqa" / f"per_question_{name}.json").is_file():
        assert {
            str(key): percentage([score]) for key, score in scores.items()
        } == read(f"vqa/per_question_{name}.json")


# ------------------------------------------------------------------ exact match


def test_exact_match() -> None:
    assert exact_match("Two dogs.", ["a cat", "2 dogs"]) == 1.0
    assert exact_match("Two dogs.", ["2 dogs"], normalise=False) == 0.0
    assert exact_match(" B\n", ["B"], normalise=False) == 1.0
    assert exact_match("A", ["a"]) == 1.0  # a choice, not an article
    assert exact_match("A", ["the"]) == 0.0
    assert exact_match("", ["", "the"]) == 0.0
    with pytest.raises(ValueError, match="at least one truth"):
        exact_match("yes", [])


# ------------------------------------------------------------------ tokens


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("", ""),
        ("A man, a plan; a canal!", "a man a plan a canal"),
        (
            "a \u201cquoted\u201d 'word' \u2013 and so on...",
            "a quoted word and so on",
        ),
        (
            "The dog's toys aren't the dogs' food, can't it be?",
            "the dog 's toys are n't the dogs food ca n't it be",
        ),
        ("I\u2019m sure they'll cannot", "i 'm sure they 'll can not"),
        (
            "a city- and state-designated T-shirt",
            "a city and state-designated t-shirt",
        ),
        ("cloud--wreathed", "cloud wreathed"),
        (
            "food (fork/knife) [sic] {x}",
            "food -lrb- fork/knife -rrb- -lsb- sic -rsb- -lcb- x -rcb-",
        ),
        (
            "black/red/pink/grey and w/ cheese",
            "black/red/pink / grey and w / cheese",
        ),
        ("St. Stephen's at 11th St.", "st. stephen 's at 11th st."),
        ("No. 5 is a no. at all", "no. 5 is a no at all"),
        ("U.S. flag, a T.V on at 5:30 p.m.", "u.s. flag a t.v on at 5:30 p.m."),
        (
            "J. Smith has plan B. The end, plan B.",
            "j. smith has plan b the end plan b.",
        ),
        ("a fork.A pipe", "a fork.a pipe"),
        ("$5.00 for 1,000 or 25% of #1", "$ 5.00 for 1,000 or 25 % of # 1"),
        (
            "five o'clock in the '70s, rock 'n' roll",
            "five o'clock in the '70s rock 'n' roll",
        ),
        ("AT&T & M&Ms", "at&t & m&m s"),
        ("hello!! what??? ok?", "hello !! what ??? ok"),
        ("bou-de-si\u00e8res", "bou-de-si\u00e8res"),
        ("salt &amp; pepper at A&amp;P", "salt & pepper at a&p"),
        ("R&amp;b &amp;amp; 5&amp;6", "r & b & amp 5 & 6"),
        ("we &lt;3 it &LT;b&gt;", "we < 3 it < b >"),
        ("&quot;no&quot;&nbsp;way&mdash;ever", "no way ever"),
        ("the cat&apos;s don&apos;t &apos;80s", "the cat 's do n't &apos;80s"),
        ("it&#39;s caf&eacute;s &copy;", "it &#39; s caf&eacute;s & copy"),
        ("a <b>bold</b> <3 <br />line", "a <b> bold </b> < 3 <br /> line"),
        ("H\u2082O and 10\u207b\u00b3", "h \u2082 o and 10 \u207b\u00b3"),
        ("vitamin C.", "vitamin c."),
    ],
)
def test_ptb_tokenize(caption: str, tokens: str) -> None:
    assert ptb_tokenize(caption) == tokens.split()


@real_data
@pytest.mark.parametrize("name", ["magic", "clip_retrieval"])
def test_tokens_equal_reference_on_every_caption(name: str) -> None:
    """Exactly equal for all 500 results and their 2,501 references."""
    tokenised = read(f"coco_magic/tokenized_{name}_first_500.json")
    results, references = coco_captions(f"results_{name}.json", 500)
    made = map(" ".join, tokenize_captions(list(results.values())))
    assert list(zip(results, ([each] for each in made), strict=True)) == list(
        tokenised["results"].items()
    )
    every = [each for captions in references.values() for each in captions]
    made = map(" ".join, tokenize_captions(every))
    assert {
        key: [next(made) for _ in captions]
        for key, captions in references.items()
    } == tokenised["references"]


@pytest.mark.parametrize(
    ("following", "last"),
    [
        ("", "d."),
        ("a boat", "d."),
        ("Two boats", "d."),
        ("A boat", "d"),
        ("  The boat", "d"),
        ('"A boat"', "d."),
    ],
)
def test_a_last_letter_keeps_its_stop_unless_a_sentence_follows(
    following: str, last: str
) -> None:
    tokens = tokenize_captions(["pier D.", following])
    assert tokens[0] == ["pier", last]
    assert tokens[1] == ptb_tokenize(following)


# ------------------------------------------------------------------ CIDEr


def coco_captions(
    results_name: str, num_images: int | None = None, folder: str = "coco_magic"
) -> tuple[dict[str, str], dict[str, list[str]]]:
    results = {
        str(result["image_id"]): result["caption"]
        for result in read(f"{folder}/{results_name}")[:num_images]
    }
    references: dict[str, list[str]] = {key: [] for key in results}
    for annotation in read(f"{folder}/captions_refs.json")["annotations"]:
        if str(annotation["image_id"]) in references:
            references[str(annotation["image_id"])].append(
                annotation["caption"]
            )
    return results, references


def test_cider_of_identical_captions_is_ten() -> None:
    captions = ["a dog runs on grass", "two red buses wait there"]
    corpus, scores = cider(captions, [[caption] for caption in captions])
    assert corpus == pytest.approx(10.0, abs=1e-12)
    assert scores == pytest.approx([10.0, 10.0], abs=1e-12)


def test_cider_by_hand() -> None:
    """Words of one of two images weigh log 2; `red` occurs twice but is clipped to
    once."""
    _, scores = cider(["red red", "bus"], [["red dog"], ["blue bus"]])
    unigrams = [1 / (2 * math.sqrt(2)), 1 / math.sqrt(2)]  # clipped dot / norms
    penalties = [1.0, math.exp(-1 / 72)]
    expected = [
        10 * cosine / 4 * penalty
        for cosine, penalty in zip(unigrams, penalties, strict=True)
    ]
    assert scores == pytest.approx(expected, abs=1e-12)


def test_a_word_of_no_reference_weighs_as_one_of_a_single_image() -> None:
    _, scores = cider(["red zebra", "bus"], [["red dog"], ["bus"]])
    assert scores == pytest.approx([10 * 1 / 2 / 4, 10 / 4], abs=1e-12)


def test_cider_averages_over_references_and_ignores_common_words() -> None:
    _, scores = cider(
        ["a dog", "a cat"], [["a dog", "some thing"], ["a cat", "a cat"]]
    )
    # `a` occurs with both images and weighs 0; unigrams and bigrams match, there are no
    # longer ones.
    assert scores == pytest.approx([10 * 2 / 4 / 2, 10 * 2 / 4], abs=1e-12)


def test_cider_of_empty_and_of_single() -> None:
    _, scores = cider(["", "..."], [["a dog"], ["", "a cat"]])
    assert scores.tolist() == [0.0, 0.0]
    assert (
        cider(["a dog"], [["a dog"]])[0] == 0.0
    )  # with one image, every word is in every image


def test_cider_rejects_unusable_input() -> None:
    with pytest.raises(
        ValueError, match="2 candidates, but references for 1 images"
    ):
        cider(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="image 1 has no references"):
        cider(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="image 0 are a string"):
        cider(["a"], ["a caption"])
    with pytest.raises(ValueError, match="no images"):
        cider([], [])


@real_data
@pytest.mark.parametrize("name", ["magic", "clip_retrieval"])
def test_cider_of_reference_tokens(name: str) -> None:
    """Tolerance: half a unit of the last stored digit, 8 for an image, 10 for the mean;
    worst 5.0e-9 and 2.1e-11."""
    tokenised = read(f"coco_magic/tokenized_{name}_first_500.json")
    keys = list(tokenised["results"])
    candidates = [tokenised["results"][key][0].split() for key in keys]
    corpus, scores = cider_of_tokens(
        candidates,
        [[c.split() for c in tokenised["references"][key]] for key in keys],
    )
    per_image = read(f"coco_magic/per_image_{name}_first_500.json")
    assert corpus == pytest.approx(
        read("expected.json")["coco_magic"][name]["first_500"]["CIDEr"],
        abs=5.1e-11,
    )
    assert scores == pytest.approx(
        [per_image[key]["CIDEr"] for key in keys], abs=5.1e-9
    )


@real_data
@pytest.mark.parametrize(
    ("folder", "name", "subset", "num_images"),
    [
        ("coco_magic", "magic", "first_500", 500),
        ("coco_magic", "clip_retrieval", "first_500", 500),
        ("abstract48S", "human", "all", 60),
        ("coco_magic", "magic", "all", 4982),
    ],
)
def test_cider_of_raw_captions(
    folder: str, name: str, subset: str, num_images: int
) -> None:
    """Our own tokens give the reference's scores to the last stored digit; worst 5.0e-9
    an image, 2.6e-11 the mean."""
    results, references = coco_captions(
        f"results_{name}.json", num_images, folder
    )
    assert len(results) == num_images
    corpus, scores = cider(
        list(results.values()), [references[key] for key in results]
    )
    assert corpus == pytest.approx(
        read("expected.json")[folder][name][subset]["CIDEr"], abs=5.1e-11
    )
    suffix = f"{name}_first_500" if subset == "first_500" else name
    if (REAL / "metrics" / folder / f"per_image_{suffix}.json").is_file():
        per_image = read(f"{folder}/per_image_{suffix}.json")
        assert scores == pytest.approx(
            [per_image[key]["CIDEr"] for key in results], abs=5.1e-9
        )


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("Black.", "black"),
        ("Joe's, 2?", "joe 's 2"),
        ("the 1,000 dollars", "1000 dollars"),
        ("Coca-Cola", "coca cola"),
        ("Two DOGS\n", "2 dogs"),
        ("what?no", "whatno"),
        ("she's", "she 's"),
        ("dont", "don't"),
    ],
)
def test_textvqa_normalises_as_its_own_evaluation(
    answer: str, form: str
) -> None:
    assert textvqa_normalise(answer) == form


def test_each_data_set_is_scored_as_its_own_evaluation_does() -> None:
    """(answer, annotators) -> VQA v2, TextVQA, VizWiz."""
    for answer, annotators, scores in (
        ("Black.", ("black",) * 10, (0.0, 1.0, 1.0)),
        ("black", ("Black",) * 10, (0.0, 1.0, 0.0)),
        ("Two", ("2",) * 9 + ("3",), (1.0, 1.0, 1.0)),
        ("Two", ("two",) * 10, (0.0, 1.0, 0.0)),
        ("joe's", ("joe 's",) * 8 + ("x", "y"), (0.0, 1.0, 0.0)),
        ("1,5", ("15",) * 10, (0.0, 1.0, 1.0)),
        ("night time!", ("night time",) * 2 + ("pills",) * 8, (0.6, 0.6, 0.6)),
    ):
        found = (
            vqa_accuracy(answer, annotators),
            TextVqa.accuracy(answer, annotators),
            VizWiz.accuracy(answer, annotators),
        )
        assert found == pytest.approx(scores), answer
    for accuracy in (vqa_accuracy, TextVqa.accuracy, VizWiz.accuracy):
        with pytest.raises(ValueError, match="at least two annotators, got 1"):
            accuracy("a", ["a"])
