"""CIDEr for captions, with a Penn Treebank tokenizer; no Java.

`cider` is what pycocoevalcap, the usual scorer of captioning benchmarks, calls CIDEr:
the CIDEr-D variant of Vedantam et al. 2015 (arXiv:1411.5726) with n-grams of one to
four words, clipped counts, a Gaussian penalty on the difference in length (sigma 6) and
a factor of ten. Document frequencies come from the references of the scored images: a
score depends on the whole set of images, and an image scored alone gets 0.
"""

import math
import re
from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

MAX_NGRAM = 4
SIGMA = 6.0
SCALE = 10.0

# ------------------------------------------------------------------ tokens

# Tokens that are removed. Brackets and doubled marks are not (`-lrb-`, `!!`): the
# reference looks for upper-case `-LRB-` among lower-case tokens, and for single marks.
_REMOVED = frozenset(
    ["''", "'", "``", "`", '"', ".", "?", "!", ",", ":", "-", ";"]
)

_CHARACTERS = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2013": " -- ",
        "\u2014": " -- ",
        "\u2026": " ... ",
    }
    | {
        "\u00a3": "#",
        "\u20ac": "$",
        "\u00a2": " cents ",
        "\u00bc": " 1/4 ",
        "\u00bd": " 1/2 ",
        "\u00be": " 3/4 ",
    }
)
_WRITTEN = {
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
    "&quot;": "''",
    "&apos;": "'",
    "&mdash;": "--",
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
}

# Abbreviations that keep their full stop: in any case, capitalised, before a number.
_ABBREVIATIONS = """
    mr mrs ms dr st mt ave blvd rd prof gen capt sgt lt col rev hon jr sr inc co corp
    ltd bros vs etc ft jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed
    thu thurs fri dept est al pres sen rep gov atty adm cmdr maj pvt cpl messrs mme mlle
    ph md bldg ct sq ste calif fla conn va mich minn ariz colo nev okla tenn ky ala ga
    wis ind kan neb dak mont wyo vt univ assn intl natl tel ext elec esq supt
"""
_CAPITAL_ABBREVIATIONS = "Tex Mass Pa Ill Wash Ore Ark La Miss Del"
_NUMBER_ABBREVIATIONS = "no nos fig figs ca pp op art prop"


# Capitalised words that start a sentence: the stop in `plan B. The` ends one, the stop
# in `J. Smith` does not.
_STARTERS = """
    A About After An As At But Here However If In It Its He Her Last Many More Mr Ms Now
    Once One Our She Since So Some Such That The Their Then There These They This We
    What When While Yet You
"""


def _any_of(words: str) -> str:
    return "(?:" + "|".join(words.split()) + ")"


_LETTER = r"[^\W\d_]"
# superscripts and subscripts stand alone
_ALNUM = r"[^\W_\u00b2\u00b3\u00b9\u2070-\u2079\u2080-\u2089]"
_WORD = rf"{_ALNUM}+(?:_+{_ALNUM}+)*"
_HYPHENED = rf"(?:-(?:{_LETTER}\.)+(?!\w)|-{_WORD})*"
_SENTENCE_END = rf"\s+(?-i:{_any_of(_STARTERS)})\b"
_ACCENTED = "&[aeiou](?:acute|grave|uml);"
_ATTRIBUTE = (
    r"[a-z][\w:.-]*(?:\s*=\s*(?:'[^'\n]*'|\"[^\"\n]*\"|[a-z][\w:.-]*))?"
)

# The kinds of token, tried in this order at each position. The rules are those of the
# Penn Treebank (punctuation separate, contractions and genitives split, abbreviations
# with their full stop) with the habits of the Stanford tokenizer 3.4.1, which
# pycocoevalcap runs, as observed in its output.
_KINDS = (
    r"can(?=not\b)|gon(?=na\b)|got(?=ta\b)|wan(?=na\b)|lem(?=me\b)|gim(?=me\b)|more(?='n\b)|'t(?=(?:i|wa)s\b)",
    r"[a-z]+(?=\s)",  # most words
    # entities and tags of web pages, superscripts and subscripts
    r"(?-i:[A-Z]+(?:&amp;[A-Z]+)+)|&(?:amp|lt|gt|quot|mdash|#\d+);",
    r"[\u207a\u207b\u208a\u208b]?"
    r"(?:[\u00b2\u00b3\u00b9\u2070\u2074-\u2079]+|[\u2080-\u2089]+)",
    r"&apos;(?:n&apos;|\d\ds)?",
    rf"{_LETTER}*(?:{_ACCENTED}{_LETTER}*)+",
    rf"</?[a-z][\w:.-]*(?: +{_ATTRIBUTE})* */?>",
    rf"{_LETTER}+?(?=n't\b)|n't\b",  # does|n't
    # dog|'s, rock|'n'|roll, '90s
    r"'(?:s|m|d|re|ve|ll|em|til|cause)\b|'n(?:'|\b)|'\d\ds?\b",
    # o'clock is one word
    rf"[dolmn]'{_LETTER}{{2,}}|c'mon|s'mores|ma'am|(?:ne|e|o)'er|y'(?=all\b)|ol'",
    # U.S., U.S, U.S.-based
    rf"(?:{_LETTER}\.|ph\.(?=d\.)){{2,}}(?:{_LETTER}\b)?(?!{_LETTER}){_HYPHENED}",
    r"https?://[^\s\"<>()]*[^\s\"<>().,;:!?']|[\w.+-]+@\w[\w-]*(?:\.\w+)+",
    rf"{_LETTER}{_ALNUM}*(?:[.?!]{_LETTER}+)+",  # fork.A
    rf"(?:{_any_of(_ABBREVIATIONS)}|(?-i:{_any_of(_CAPITAL_ABBREVIATIONS)}))\.",
    rf"{_LETTER}\.(?!{_SENTENCE_END})|{_any_of(_NUMBER_ABBREVIATIONS)}\.(?=\s*\d)",
    r"(?-i:[A-Z]+(?:&[A-Z]+)+)",  # AT&T
    rf"[+-]?\d*(?:[.,:]-?\d+)+(?:-{_LETTER}+)*|[+-]\d+",
    r"[a-z0-9]+(?:-[a-z0-9]+)*(?:/[a-z0-9]+(?:-[a-z]+)*){1,2}",  # red/yellow, 3/4-inch
    rf"{_WORD}{_HYPHENED}|[#@]{_LETTER}\w*",
    r"\.+|-+|#+|\*+|_+|>>|<<|``|''|[?!]+|\S",
)
_TOKEN = re.compile("|".join(_KINDS), re.IGNORECASE)


def ptb_tokenize(text: str, following: str = "") -> list[str]:
    """The tokens of a caption as pycocoevalcap counts them: Treebank tokens in lower
    case, without punctuation.

    `A man's dog can't wait (at 5:30 p.m.).` gives `a man 's dog ca n't wait -lrb- at
    5:30 p.m. -rrb-`. The reference reads a whole file of captions, one on each line,
    and whether a last single letter keeps its full stop (`plan B.`) depends on the
    `following` one: it does not before a capitalised word that starts sentences. Not
    reproduced: smileys, formulas, telephone numbers in brackets.
    """
    text = _characters(text)
    raw: list[str] = []
    for match in _TOKEN.finditer(f"{text}\n{_characters(following[:80])}"):
        if match.start() >= len(text):
            break
        raw.append(match[0])
    # A tag of several words is one token there, but is split when it is counted.
    tokens = (
        part
        for token in raw
        for part in (_WRITTEN.get(token.lower()) or _written(token)).split()
    )
    return [
        token
        for token in tokens
        if token not in _REMOVED and not token.startswith(("--", ".."))
    ]


def _characters(text: str) -> str:
    if "&" in text:
        text = text.replace("&nbsp;", " ")
        text = re.sub(r"(?<=[A-Za-z])&apos;(?=[A-Za-z])", "'", text)
    return text.translate(_CHARACTERS)


def _written(token: str) -> str:
    return token.lower().replace("&amp;", "&")


def tokenize_captions(captions: Sequence[str]) -> list[list[str]]:
    """The tokens of each of the captions that the reference would have in one file."""
    return [
        ptb_tokenize(caption, following)
        for caption, following in zip(
            captions, [*captions[1:], ""], strict=True
        )
    ]


# ------------------------------------------------------------------ score

_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.int64]


def _check(num_candidates: int, references: Sequence[Sequence[object]]) -> None:
    if num_candidates != len(references):
        raise ValueError(
            f"{num_candidates} candidates, but references for {len(references)} images"
        )
    if not references:
        raise ValueError("no images to score")
    for index, captions in enumerate(references):
        if isinstance(captions, str):
            raise ValueError(
                f"the references of image {index} are a string, not a list of captions"
            )
        if len(captions) == 0:
            raise ValueError(f"image {index} has no references")


def _cosines(
    ngram: _Integers, caption: _Integers, image: _Integers, num_images: int
) -> _Floats:
    """The clipped cosine of each reference with its image's candidate, for n-grams of
    one length.

    Args:
        ngram: the id of each n-gram occurrence, shape (occurrences,).
        caption: the caption it occurs in, shape (occurrences,); captions 0 to
            num_images - 1 are the candidates, in order.
        image: the image of each caption, shape (captions,).
    """
    num_kinds = int(ngram.max(initial=0)) + 1
    entries, counts = np.unique(caption * num_kinds + ngram, return_counts=True)
    caption, ngram = np.divmod(entries, num_kinds)
    first = np.searchsorted(
        caption, num_images
    )  # first entry of the references
    keys = image[caption] * num_kinds + ngram
    frequency = np.bincount(
        np.unique(keys[first:]) % num_kinds, minlength=num_kinds
    )
    weights = (
        counts
        * (math.log(num_images) - np.log(np.maximum(frequency, 1)))[ngram]
    )
    norms = np.sqrt(np.bincount(caption, weights**2, minlength=len(image)))

    # The candidate's entry for each entry of a reference; the appended one, of weight
    # 0, stands for none.
    own_keys = np.append(keys[:first], np.iinfo(np.int64).max)
    own_weights = np.append(weights[:first], 0.0)
    place = np.searchsorted(own_keys, keys[first:])
    own = np.where(own_keys[place] == keys[first:], own_weights[place], 0.0)
    products = np.minimum(own, weights[first:]) * weights[first:]
    dots = np.bincount(
        caption[first:] - num_images,
        products,
        minlength=len(image) - num_images,
    )
    scale = norms[image[num_images:]] * norms[num_images:]
    return np.divide(dots, scale, out=np.zeros(len(scale)), where=scale > 0)


def cider_of_tokens(
    candidates: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
) -> tuple[float, _Floats]:
    """`cider` for tokenised captions: a list of tokens for each."""
    _check(len(candidates), references)
    num_images = len(references)
    num_references = [len(captions) for captions in references]
    captions = [*candidates, *chain.from_iterable(references)]
    image = np.concatenate(
        [
            np.arange(num_images),
            np.repeat(np.arange(num_images), num_references),
        ]
    )
    length = np.array([len(caption) for caption in captions])
    caption = np.repeat(np.arange(len(captions)), length)
    vocabulary: dict[str, int] = {}
    numbers = [
        vocabulary.setdefault(token, len(vocabulary))
        for token in chain.from_iterable(captions)
    ]
    tokens = np.array(numbers, dtype=np.int64)

    cosines = _cosines(tokens, caption, image, num_images)
    ngram = tokens
    for n in range(2, MAX_NGRAM + 1):
        # Captions are concatenated; an n-gram that spans two of them does not count.
        _, ngram = np.unique(
            ngram[:-1] * len(vocabulary) + tokens[n - 1 :], return_inverse=True
        )
        begin = caption[: len(ngram)]
        end = caption[n - 1 :]
        cosines += _cosines(
            ngram[begin == end], begin[begin == end], image, num_images
        )
    difference = length[num_images:] - length[image[num_images:]]
    similarity = cosines / MAX_NGRAM * np.exp(-(difference**2) / (2 * SIGMA**2))
    scores = (
        SCALE * np.bincount(image[num_images:], similarity) / num_references
    )
    return float(scores.mean()), scores


def cider(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[float, _Floats]:
    """CIDEr of one caption for each image against that image's references.

    Args:
        candidates: a caption for each image; an empty one scores 0.
        references: the human captions of each image, in the same order.

    Returns:
        The mean over images, and the score of each image, shape (images,); both are in
        [0, 10]. Papers print 100 times the mean.

    Raises:
        ValueError: the two lengths differ, there are no images, or an image has no
            references.
    """
    _check(len(candidates), references)
    every = iter(
        tokenize_captions(
            [each for captions in references for each in captions]
        )
    )
    return cider_of_tokens(
        tokenize_captions(candidates),
        [[next(every) for _ in captions] for captions in references],
    )
