"""Generation and scoring against a naive reference, at any batch size and on several
ranks."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import tiny
import torch
from ranks import on_ranks

from mm1 import dist
from mm1.data.document import Document, Image, Text
from mm1.data.render import RenderedDocument, Renderer
from mm1.infer.predictor import Predictor
from mm1.infer.prefixes import common_prefix_length
from mm1.infer.trained_model import make_renderer
from mm1.loader.collate import RenderedSegment, collate
from mm1.loader.packed import PackedLoader
from mm1.nn.attention import PackedAttention
from mm1.nn.clip import CLIP
from mm1.nn.decoder import Decoder
from mm1.nn.experts import MoE
from mm1.nn.mm1 import MM1
from mm1.train.expert_parallel import distribute_experts
from mm1.train.layout import ParallelLayout
from mm1.train.parallel import shard


def logits_one_by_one(
    predictor: Predictor, sequence: RenderedDocument
) -> torch.Tensor:
    """Logits of every position of one document by the training forward pass, (T, V)."""
    batch = collate([[RenderedSegment.whole(sequence)]], predictor.renderer)
    model = predictor.model
    hidden = model.decoder(
        model.inputs(batch),
        batch.positions,
        PackedAttention(batch.cu_seqlens, batch.max_seqlen),
    )
    return hidden @ model.decoder.head.T


@torch.no_grad()
def continue_without_cache(
    predictor: Predictor, document: Document, num_tokens: int
) -> str:
    """The reference: a training forward pass of the whole document for each new
    token."""
    sequence = predictor.renderer(document, end=False)
    tokenizer = predictor.renderer.tokenizer
    said = []
    while len(said) < num_tokens:
        tokens = torch.tensor([*sequence.tokens, *said]).numpy()
        logits = logits_one_by_one(
            predictor, replace(sequence, tokens=tokens, loss_mask=tokens < 0)
        )[-1]
        logits[[tokenizer.pad, tokenizer.image]] = -torch.inf
        if (token := int(logits.argmax())) == tokenizer.end:
            break
        said.append(token)
    return tokenizer.decode(said)


def test_answers_equal_a_forward_pass_for_each_token(tmp_path: Path) -> None:
    predictor = tiny.predictor(tmp_path)
    documents = tiny.prompts(9)
    answers = predictor.generate(documents, max_tokens=6)
    assert answers == [
        continue_without_cache(predictor, document, 6) for document in documents
    ]
    assert len(set(answers)) > 3  # the prompts matter


def test_answers_are_equal_at_any_batch_size(tmp_path: Path) -> None:
    documents = tiny.prompts(13)
    answers = []
    for tokens_per_batch in (1, 60, 200, 100_000):
        predictor = tiny.predictor(tmp_path, tokens_per_batch=tokens_per_batch)
        answers.append(predictor.generate(documents, max_tokens=5))
    assert all(other == answers[0] for other in answers)
    backwards = tiny.predictor(tmp_path).generate(documents[::-1], max_tokens=5)
    assert backwards[::-1] == answers[0]


def test_batches_keep_to_the_budget_and_lose_nothing(tmp_path: Path) -> None:
    predictor = tiny.predictor(tmp_path, tokens_per_batch=80)
    lengths = [
        len(predictor.renderer(document, end=False).tokens) + 5
        for document in tiny.prompts(20)
    ]
    batches = predictor._batches(lengths)
    assert sorted(i for members in batches for i in members) == list(range(20))
    for members in batches:
        max_seqlen = max(lengths[i] for i in members)
        assert max_seqlen * len(members) <= 80 or len(members) == 1


def test_a_common_prefix_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = sum(tiny.prompts(4)[1:], Document(()))
    ends = tiny.prompts(7)
    read = []
    documents = [begin + end for end in ends]
    predictor = tiny.predictor(tmp_path, tokens_per_batch=60)
    alone = predictor.generate(documents, max_tokens=5)
    prefill = predictor.model.prefill
    monkeypatch.setattr(
        predictor.model,
        "prefill",
        lambda batch, cache: read.append(batch) or prefill(batch, cache),
    )
    assert (
        predictor.generate(documents, max_tokens=5, share_prefix=True) == alone
    )
    assert len(set(alone)) > 2
    first, *rest = (len(batch.tokens) for batch in read)
    lengths = [
        len(predictor.renderer(document, end=False).tokens)
        for document in (begin, *ends)
    ]
    assert (
        first == lengths[0] + 1
    )  # all ends begin with the token of an r, which is in the prefix too
    assert sum(rest) == sum(lengths[1:]) - 7
    assert len(rest) > 2
    assert predictor.generate([], max_tokens=5, share_prefix=True) == []


def test_images_are_in_the_prefix_whole_or_not_at_all(tmp_path: Path) -> None:
    predictor = tiny.predictor(tmp_path)  # 4 tokens an image

    def shared(*documents: tuple[Text | Image, ...]) -> int:
        return common_prefix_length(
            [
                predictor.renderer(Document(parts), end=False)
                for parts in documents
            ]
        )

    red = Text("red")
    one = tiny.picture(1)
    two = tiny.picture(2)
    length = len(predictor.renderer(Document((red,)), end=False).tokens)
    assert shared((red, one, red), (red, one, Text(" dog"))) == length + 4
    assert (
        shared((red, one, red), (red, two, red)) == length
    )  # equal tokens, other images
    assert (
        shared((red, one), (red, one)) == length
    )  # one token of each must be left, and an image is not cut
    assert shared((red, one, two, red), (red, one, one, red)) == length + 4
    assert shared((red, one, red), (red, red, one)) == length
    assert shared((one, red), (two, red)) == shared((red,), (one,)) == 0


@pytest.mark.parametrize("kind", ["bpe", "word"])
def test_an_answer_stops_before_its_stop_string(
    tmp_path: Path, kind: str
) -> None:
    predictor = tiny.predictor(tmp_path, kind=kind)
    documents = tiny.prompts(9)
    whole = predictor.generate(documents, max_tokens=8)
    mark = max(whole, key=len)[2:4]  # inside a token, or across two
    cut = predictor.generate(documents, max_tokens=8, stop=("never said", mark))
    assert cut == [text.partition(mark)[0] for text in whole]
    assert cut != whole


def test_an_answer_stops_at_the_end_token_and_never_says_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = tiny.predictor(tmp_path, kind="word")
    documents = tiny.prompts(2)
    tokenizer = predictor.renderer.tokenizer
    steps = []
    red = tokenizer.encode("red")[0]
    end = tokenizer.end

    def logits(*likely: int) -> torch.Tensor:
        """For both prompts `<image>` is most likely, then `<pad>`, then the answer."""
        rows = torch.zeros(2, tokenizer.vocab_size)
        rows[:, [tokenizer.image, tokenizer.pad]] = torch.tensor([9.0, 8.0])
        rows[torch.arange(2), torch.tensor(likely)] = 5.0
        return rows

    def step(tokens: torch.Tensor, cache: object) -> torch.Tensor:
        steps.append(tokens.tolist())
        return logits(red, end)

    monkeypatch.setattr(
        predictor.model, "prefill", lambda batch, cache: logits(end, red)
    )
    monkeypatch.setattr(predictor.model, "step", step)
    assert sorted(predictor.generate(documents, max_tokens=9)) == ["", "red"]
    assert steps == [[end, red]]  # both were done after the first step


@torch.no_grad()
def test_log_likelihood_is_that_of_the_loss_parts(tmp_path: Path) -> None:
    predictor = tiny.predictor(tmp_path, tokens_per_batch=60)
    documents = [
        *tiny.prompts(9),
        Document((Text("red", loss=False), Text(" cat dog", end=True))),
    ]
    found = predictor.log_likelihood(documents)
    for document, score in zip(documents, found, strict=True):
        sequence = predictor.renderer(document, end=False)
        log_probs = logits_one_by_one(predictor, sequence).log_softmax(-1)
        wanted = sum(
            float(log_probs[i - 1, sequence.tokens[i]])
            for i in range(1, len(sequence.tokens))
            if sequence.loss_mask[i]
        )
        assert score == pytest.approx(wanted, abs=1e-4)
    assert found[0] == 0.0  # no part of it carries loss
    assert found[-1] < 0.0


@torch.no_grad()
def test_greedy_means_every_token_is_the_argmax(tmp_path: Path) -> None:
    """The two most likely tokens, and pairs with one of them."""
    predictor = tiny.predictor(tmp_path, tokens_per_batch=60)
    documents = []
    wanted = []
    for prompt in tiny.prompts(6):
        asked = Document(
            tuple(
                replace(p, loss=False) if isinstance(p, Text) else p
                for p in prompt.parts
            )
        )
        said: list[int] = []
        for _ in range(2):
            document = asked + Document((Text("", tokens=tuple(said)),))
            logits = logits_one_by_one(
                predictor, predictor.renderer(document, end=False)
            )
            said.append(int(logits[-1].argmax()))
        for tokens in (said, [said[0], said[1] ^ 1], [said[0] ^ 1, said[1]]):
            documents.append(
                asked + Document((Text("", tokens=tuple(tokens)),))
            )
            wanted.append(tokens == said)
    assert [greedy for _, greedy in predictor.score(documents)] == wanted


def test_no_documents_give_no_answers(tmp_path: Path) -> None:
    predictor = tiny.predictor(tmp_path)
    assert predictor.generate([], max_tokens=2) == []
    assert predictor.log_likelihood([]) == []
    with pytest.raises(ValueError, match="document 1 is empty"):
        predictor.generate([*tiny.prompts(1), Document(())], max_tokens=2)


def test_a_model_without_a_decoder_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer(tmp_path)
    with torch.device("meta"):
        clip = CLIP.Config().build(vocab_size=tokenizer.vocab_size)
    with pytest.raises(TypeError, match="CLIP is not a language model"):
        Predictor(clip, Renderer(tokenizer, None), torch.device("cpu"))


NUM_DOCUMENTS = (0, 7)
"""Rank 0 has no prompts but has to take part."""


def ask(folder: Path) -> None:
    """On one of two ranks."""
    device = dist.start()
    place = folder / str(dist.rank())
    place.mkdir()
    everything = tiny.prompts(max(NUM_DOCUMENTS))
    documents = everything[: NUM_DOCUMENTS[dist.rank()]]
    wanted = tiny.predictor(place).generate(everything, max_tokens=6)[
        : len(documents)
    ]
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    for precision in precisions:
        predictor = tiny.predictor(place, tokens_per_batch=70)
        layout = ParallelLayout.Config().build(device)
        shard(predictor.model, layout, precision=precision)
        answers = predictor.generate(documents, max_tokens=6)
        assert len(answers) == len(documents)
        assert len(predictor.log_likelihood(documents)) == len(documents)
        if precision == "fp32":  # with bf16 rounding, answers may differ
            assert answers == wanted
            assert (
                predictor.generate(documents, max_tokens=6, share_prefix=True)
                == answers
            )

    ask_experts(place, documents, everything)


def ask_experts(
    place: Path, documents: list[Document], everything: list[Document]
) -> None:
    """Each rank holds two of four experts."""
    mixture = MoE.Config(num_experts=4)
    single = tiny.predictor(place, experts=mixture)
    wanted = single.generate(everything, max_tokens=6)[: len(documents)]
    predictor = tiny.predictor(place, tokens_per_batch=70, experts=mixture)
    layout = ParallelLayout.Config(experts=2).build(
        dist.start(), MM1.Config(decoder=Decoder.Config(experts=mixture))
    )
    distribute_experts(predictor.model, layout)
    shard(predictor.model, layout, precision="fp32")
    assert predictor.generate(documents, max_tokens=6) == wanted
    assert len(predictor.log_likelihood(documents)) == len(documents)


def test_ranks_stay_in_step(tmp_path: Path) -> None:
    """Two ranks with different numbers of prompts and sharded weights, or experts,
    would hang if one made fewer calls."""
    on_ranks(2, ask, tmp_path)


def test_prompts_beyond_the_trained_length_are_warned_of_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tiny.predictor(tmp_path)
    renderer = replace(made.renderer, trained_length=20)
    predictor = Predictor(made.model, renderer, torch.device("cpu"))
    short = Document((Text("a few words"),))
    long = Document((Text("a few words " * 20),))
    num_tokens = len(renderer(long, end=False).tokens)
    predictor.generate([short], max_tokens=1)
    assert capsys.readouterr().err == ""
    predictor.generate([short, long, short], max_tokens=1)
    said = capsys.readouterr().err
    assert "1 of 3 prompts are longer" in said
    assert f"up to {num_tokens} tokens, trained on 20;" in said
    predictor.score([long])
    assert capsys.readouterr().err == ""


def test_the_trained_length_is_that_of_the_loader(tmp_path: Path) -> None:
    made = tiny.predictor(tmp_path)
    renderer = make_renderer(
        made.model,
        made.renderer.tokenizer,
        PackedLoader.Config(sequence_length=96),
    )
    assert renderer.trained_length == 96
