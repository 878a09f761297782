"""VQA accuracy and exact match; captions are scored in `mm1.eval.cider`.

VQA accuracy follows the reference evaluation (VQA: Antol et al. 2015, arXiv:1505.00468;
`vqaEval.py` of github.com/GT-Vision-Lab/VQA) in every detail that affects a score,
quirks included; TextVQA's and VizWiz's follow their own. Many later scripts always
normalise, or compare with all ten annotators at once; their numbers differ slightly.
"""

import re
from collections.abc import Sequence

# In this order, each either deleted or replaced by a space; apostrophes and colons are
# kept.
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
# the reference passes a flag, whose value is 32, where `re.sub` expects a count
_MAX_FULL_STOPS = 32

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
)
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)} | {
    "none": "0"
}

# Contractions in their correct form; one that lacks exactly one apostrophe gets it
# back.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't
    hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've
    it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
    oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd
    something'd've something'll that's there'd there'd've there're there's they'd
    they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've
    why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've
    you'd you'd've you'll you're you've
"""
_CORRECTED = {
    form[:place] + form[place + 1 :]: form
    for form in _CONTRACTIONS.split()
    for place, mark in enumerate(form)
    if mark == "'"
} | {
    "somebody'd": "somebodyd"
}  # the reference has this pair the wrong way round


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def vqa_normalise(answer: str) -> str:
    """The reference's normal form of an answer: punctuation, full stops, case, number
    words, articles, contractions.

    A punctuation mark is deleted if it is next to a space anywhere in the answer, or if
    the answer contains digit-comma-digit; otherwise it becomes a space. A full stop is
    deleted unless a digit follows. `Two, dont.` becomes `2 don't`.
    """
    answer = text = _one_line(answer)
    has_digit_comma = _DIGIT_COMMA_DIGIT.search(answer) is not None
    for mark in _PUNCTUATION:
        deleted = (
            has_digit_comma or f"{mark} " in answer or f" {mark}" in answer
        )
        text = text.replace(mark, "" if deleted else " ")
    text = _FULL_STOP.sub("", text, count=_MAX_FULL_STOPS)
    words = (_DIGITS.get(word, word) for word in text.lower().split())
    return " ".join(
        _CORRECTED.get(word, word) for word in words if word not in _ARTICLES
    )


def textvqa_normalise(answer: str) -> str:
    """The normal form of TextVQA's evaluation (`EvalAIAnswerProcessor` of
    github.com/facebookresearch/mmf): `vqa_normalise` without commas and question marks,
    and with genitives apart. `Joe's, 2?` becomes `joe 's 2`."""
    answer = answer.lower().replace(",", "").replace("?", "")
    return vqa_normalise(answer.replace("'s", " 's").strip())


def vqa_accuracy(answer: str, annotators: Sequence[str]) -> float:
    """Accuracy in [0, 1] of an answer against those of all annotators (ten in VQA v2).

    For each annotator: min(1, number of equal answers among the *others* / 3). The
    accuracy is the mean, so 1, 2, 3 and 4 or more equal answers of ten give 0.3, 0.6,
    0.9 and 1. Answers are normalised only if the annotators disagree; if they all
    agree, the answer must match exactly.

    Raises:
        ValueError: there are fewer than two annotators.
    """
    answer = _one_line(answer)
    truths = [_one_line(truth) for truth in annotators]
    if len(set(truths)) > 1:
        answer = vqa_normalise(answer)
        truths = [vqa_normalise(truth) for truth in truths]
    return _agreement(answer, truths)


def textvqa_accuracy(answer: str, annotators: Sequence[str]) -> float:
    """`vqa_accuracy` as TextVQA's evaluation has it (`TextVQAAccuracyEvaluator` of
    github.com/facebookresearch/mmf): always normalised, by `textvqa_normalise`.

    Raises:
        ValueError: there are fewer than two annotators.
    """
    truths = [textvqa_normalise(truth) for truth in annotators]
    return _agreement(textvqa_normalise(answer), truths)


def vizwiz_accuracy(answer: str, annotators: Sequence[str]) -> float:
    """`vqa_accuracy` as VizWiz's evaluation has it (`vqaEval.py` of its Python API, by
    Qing Li): the answer is always normalised, those of annotators are taken as they
    stand in the published files, in lower case.

    Raises:
        ValueError: there are fewer than two annotators.
    """
    return _agreement(vqa_normalise(answer), annotators)


def _agreement(answer: str, truths: Sequence[str]) -> float:
    """The mean over annotators of what the answers of the others make of an answer."""
    if len(truths) < 2:
        raise ValueError(
            f"VQA accuracy needs at least two annotators, got {len(truths)}"
        )
    equal = [truth == answer for truth in truths]
    num_equal = sum(equal)
    return sum(min(1.0, (num_equal - own) / 3) for own in equal) / len(truths)


def percentage(scores: Sequence[float]) -> float:
    """The mean of scores in [0, 1] as the reference reports it: in percent, rounded to
    two digits.

    Raises:
        ValueError: there are no scores.
    """
    if not scores:
        raise ValueError("no scores to average")
    return round(100 * sum(scores) / len(scores), 2)


def exact_match(
    answer: str, truths: Sequence[str], *, normalise: bool = True
) -> float:
    """1 if the answer equals one of the truths, else 0; an empty answer scores 0.

    The name and the best-of-all-truths rule are SQuAD's (Rajpurkar et al. 2016,
    arXiv:1606.05250); the normal form is that of `vqa_normalise`. An answer whose
    normal form is empty (the choice `A` is an article) is compared in lower case. With
    `normalise=False` only leading and trailing white space is ignored.

    Raises:
        ValueError: there are no truths.
    """
    if not truths:
        raise ValueError("exact match needs at least one truth, got none")

    def normal_form(text: str) -> str:
        text = text.strip()
        return (vqa_normalise(text) or text.lower()) if normalise else text

    key = normal_form(answer)
    return float(key != "" and key in map(normal_form, truths))
