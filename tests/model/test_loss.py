"""The loss: what it is by CSM's definition, and that packing, accumulation and processes do not change it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from csm_model.config import ModelConfig, debug_config
from csm_model.errors import InputError
from csm_model.model import CsmModel
from csm_model.training.data import Batch, DropoutSettings, PackedTokens, Targets, Totals, TurnsInMemory
from csm_model.training.loss import Losses, LossModule
from csm_model.training.metrics import Meter
from csm_model.training.packing import Packing
from csm_model.training.selectors import check_known, check_weights, turn_weight
from csm_model.training.shards import TokenTurn
from csm_model.transformer import PackedDocuments

BOOKS, CODES, TEXTS = 4, 30, 50
CONFIG = debug_config(text_vocab_size=TEXTS, num_codebooks=BOOKS, codebook_size=CODES)
ZEROS = replace(CONFIG, end="zeros")


def talk(conversations: int = 6, *, frames: tuple[int, int] = (3, 14), seed: int = 0) -> list[TokenTurn]:
    """Conversations of one to four turns by two people; every third turn is tagged."""
    rng = np.random.default_rng(seed)
    turns: list[TokenTurn] = []
    for conversation in range(conversations):
        for number in range(int(rng.integers(1, 5))):
            turns.append(
                TokenTurn(
                    id=f"{conversation}-{number}",
                    conversation=str(conversation),
                    split="train",
                    speaker=number % 2,
                    text="Um, hello." if len(turns) % 4 == 0 else "Hello.",
                    text_ids=rng.integers(0, TEXTS, rng.integers(3, 8)).astype(np.int32),
                    codes=rng.integers(0, CODES, (BOOKS, rng.integers(*frames))).astype(np.int16),
                    tags=("laughing",) if len(turns) % 3 == 0 else (),
                )
            )
    return turns


def packed(
    turns: Sequence[TokenTurn], *, rows: int = 96, config: ModelConfig = CONFIG, max_turns: int = 0, **reading: object
) -> PackedTokens:
    settings = DropoutSettings(**{"depth_share": 0.5, **reading})  # type: ignore[arg-type]
    packing = Packing(row_length=rows, max_turns=max_turns)
    return PackedTokens(TurnsInMemory(turns), config, packing=packing, reading=settings)


def opinionated(config: ModelConfig = CONFIG) -> LossModule:
    """A random model whose logits are far from flat, with all three losses."""
    torch.manual_seed(0)
    model = CsmModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5.0 if weight.dim() > 1 else 1.0)
    return LossModule(model, depth_weight=0.7, text_weight=0.3)


def added(losses: Sequence[Losses]) -> dict[str, Tensor]:
    return {name: torch.stack([getattr(each, name) for each in losses]).sum(0) for name in Losses._fields}


def learnt(module: LossModule, batches: Sequence[Batch], totals: Totals) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The losses of a step, and its gradients, from the shares of its batches."""
    module.zero_grad()
    losses = []
    for batch in batches:
        share = module(batch, totals)
        share.total.backward()
        losses.append(Losses(*(part.detach() for part in share)))
    return added(losses), {name: weight.grad.clone() for name, weight in module.named_parameters()}


def assert_same(
    one: tuple[dict[str, Tensor], dict[str, Tensor]], other: tuple[dict[str, Tensor], dict[str, Tensor]]
) -> None:
    for mine, theirs, tolerance in zip(one, other, (1e-6, 1e-7), strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            torch.testing.assert_close(
                mine[name], theirs[name], rtol=1e-5, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
            )
    assert all(grad.abs().sum() > 0 for grad in one[1].values()), "a weight that learns nothing proves nothing"


def totals_of(batches: Sequence[Batch]) -> Totals:
    return Totals(*(sum(part) for part in zip(*(batch.totals for batch in batches), strict=True)))


def alone(batch: Batch) -> list[Batch]:
    """Every document of a batch as a batch of its own, without padding."""
    found = []
    size = batch.rows.shape[1]
    for item, lengths in enumerate(batch.lengths):
        start = 0
        for length in lengths:
            rows, mask = (each[item : item + 1, start : start + length] for each in (batch.rows, batch.mask))
            begin = item * size + start
            targets = []
            for places, weights in (batch.first, batch.depth, batch.text):
                mine = (begin <= places) & (places < begin + length)
                targets.append(Targets(places[mine] - begin, weights[mine]))
            if len(targets[0].places):  # padding has none
                found.append(Batch(rows, mask, [[length]], *targets, length))
            start += length
    return found


def test_packed_documents_teach_what_each_teaches_alone() -> None:
    """Losses and all gradients, with several documents a row, padding, weights and hidden history."""
    tokens = packed(talk(12), history_dropout=0.3, text_dropout=0.2, loss_weights={"speaker:1": 0.25})
    batch = tokens.batch(range(tokens.packs.count(0)))
    documents = alone(batch)
    assert len(documents) >= 2 * len(batch.lengths)
    assert batch.rows_held < batch.rows[..., 0].numel(), "there is padding"
    assert sum(batch.totals[0] for batch in documents) == pytest.approx(batch.totals.first)
    module = opinionated()
    assert_same(learnt(module, [batch], batch.totals), learnt(module, documents, batch.totals))


def test_nothing_leaks_from_one_document_to_another() -> None:
    """Other tokens in one document and in the padding leave the states of the others as they were, to the bit."""
    tokens = packed(talk(12))
    batch = tokens.batch(range(tokens.packs.count(0)))
    model = opinionated().model
    item = next(number for number, lengths in enumerate(batch.lengths) if len(lengths) > 2)
    first, second = batch.lengths[item][:2]
    with torch.no_grad():
        before = model.hidden(batch.rows, batch.mask, PackedDocuments(batch.lengths))
        for begin, end in ((0, first), (first, first + second), (sum(batch.lengths[item][:-1]), None)):
            rows, mask = batch.rows.clone(), batch.mask.clone()
            rows[item, begin:end] = (rows[item, begin:end] + 7) % CODES
            mask[item, begin:end] = True
            after = model.hidden(rows, mask, PackedDocuments(batch.lengths))
            same = (before == after).all(-1)
            changed = torch.zeros_like(same)
            changed[item, begin:end] = True
            assert torch.equal(~same, changed)


def test_positions_begin_anew_with_every_document() -> None:
    positions = PackedDocuments([[3, 2], [1, 4]]).positions(torch.zeros(2, 5, 8))
    assert positions.tolist() == [[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]


def reference(
    model: CsmModel, turns: Sequence[TokenTurn], picked: Mapping[int, set[int]], *, ahead: int = 1
) -> dict[str, Tensor]:
    """CSM's loss of one conversation, written row by row: the state `ahead` rows before a frame predicts it.

    `picked` are the frames of each turn that the depth decoder is trained on.
    """
    config = model.config
    rows, masks, frames = [], [], []
    for number, turn in enumerate(turns):
        for id_ in turn.text_ids.tolist():
            rows.append([0] * BOOKS + [id_])
            masks.append([False] * BOOKS + [True])
        for index, frame in enumerate([*turn.codes.T.tolist(), [config.end_code] * BOOKS]):
            frames.append((len(rows), number, index))
            rows.append([*frame, 0])
            masks.append([True] * BOOKS + [False])
    states = model.hidden(torch.tensor([rows]), torch.tensor([masks]))[0]
    first, depth = [], []
    for row, number, index in frames:
        state, codes = states[row - ahead], torch.tensor(rows[row][:-1])
        first.append(F.cross_entropy(model.codebook0_head(state), codes[0]))
        if index in picked[number]:
            books = []
            for book in range(1, BOOKS):
                seen = [state, *(model.embed_code(codes[k], k) for k in range(book))]
                out = model.decoder(model.projection(torch.stack(seen)[None]))[0, -1]
                books.append(F.cross_entropy(out @ model.audio_head[book - 1], codes[book]))
            depth.append(torch.stack(books))
    return {"first": torch.stack(first), "depth": torch.stack(depth)}


@pytest.mark.parametrize("config", [CONFIG, ZEROS], ids=["reserved", "zeros"])
def test_it_is_csms_loss_and_the_state_before_a_frame_predicts_it(config: ModelConfig) -> None:
    turns = talk(5)
    module = opinionated(config)
    tokens = packed(turns, config=config)
    batch = tokens.batch(range(tokens.packs.count(0)))
    with torch.no_grad():
        ours = module(batch)
        theirs: dict[int, list[dict[str, Tensor]]] = {0: [], 1: []}
        for item, number in enumerate(range(tokens.packs.count(0))):
            place = item * batch.rows.shape[1]
            for document in tokens.packs[number][1]:
                picked: dict[int, set[int]] = {}
                mine = turns[document.first : document.last]
                for index, turn in enumerate(mine):
                    place += len(turn.text_ids)
                    count = turn.codes.shape[1] + 1
                    chosen = (batch.depth.places >= place) & (batch.depth.places < place + count)
                    picked[index] = {int(each) - place for each in batch.depth.places[chosen]}
                    assert (count - 1 in picked[index]) == (config.end == "zeros"), "the row that ends speech"
                    place += count
                for ahead in theirs:
                    theirs[ahead].append(reference(module.model, mine, picked, ahead=ahead))
    for ahead, found in theirs.items():
        first, depth = (torch.cat([each[name] for each in found]).mean() for name in ("first", "depth"))
        assert (abs(float(ours.first - first)) < 1e-5) == (ahead == 1)
        assert (abs(float(ours.depth - depth)) < 1e-5) == (ahead == 1)


def test_accumulation_and_processes_change_nothing() -> None:
    """One batch of all packs; a batch of each; those shared out among processes, whose gradients are added."""
    tokens = packed(talk(24), loss_weights={"tag:laughing": 2.0, "speaker:1": 0.5})
    count = tokens.packs.count(0) // 4 * 4
    module = opinionated()
    whole = tokens.batch(range(count))
    singles = [tokens.batch([number]) for number in range(count)]
    assert len({tuple(batch.totals) for batch in singles}) > 1, "equal packs would prove nothing"
    assert totals_of(singles) == pytest.approx(whole.totals)
    together = learnt(module, [whole], whole.totals)
    assert_same(together, learnt(module, singles, totals_of(singles)))
    for size in (2, 4):
        ranks = [learnt(module, singles[rank::size], totals_of(singles)) for rank in range(size)]
        sums = tuple({name: sum(rank[part][name] for rank in ranks) for name in ranks[0][part]} for part in (0, 1))
        assert_same(together, sums)


def test_packing_changes_nothing() -> None:
    """The same documents in longer rows: other neighbours, other padding, the same picks and the same means."""
    turns = talk(24)
    module = opinionated()
    found = []
    for rows in (160, 320):
        tokens = packed(turns, rows=rows, text_dropout=0.3, history_dropout=0.2)
        batch = tokens.batch(range(tokens.packs.count(0)))
        documents = sorted(document for pack in tokens.packs.epoch(0) for document in pack)
        found.append((documents, learnt(module, [batch], batch.totals)))
    assert found[0][0] == found[1][0]
    assert_same(found[0][1], found[1][1])


def picks(tokens: PackedTokens, epoch: int) -> set[tuple[int, ...]]:
    """The frames of an epoch that the depth decoder is trained on, each by its codes."""
    start = sum(tokens.packs.count(before) for before in range(epoch))
    batch = tokens.batch(range(start, start + tokens.packs.count(epoch)))
    return {tuple(row.tolist()) for row in batch.rows.flatten(0, 1)[batch.depth.places]}


def test_the_share_of_frames_is_right_and_drawn_anew_every_epoch() -> None:
    turns = talk(60, frames=(5, 40), seed=1)
    frames = sum(turn.codes.shape[1] for turn in turns)
    tokens = packed(turns, rows=512, depth_share=1 / 16)
    epochs = [picks(tokens, epoch) for epoch in range(20)]
    drawn = [len(each) for each in epochs]
    assert sum(drawn) / 20 == pytest.approx(frames / 16, rel=0.05)
    expected = frames * (1 - (15 / 16) ** 20)  # frames seen at least once, were every epoch independent
    assert len(set.union(*epochs)) == pytest.approx(expected, rel=0.1)
    assert picks(packed(turns, rows=512, depth_share=1 / 16), 3) == epochs[3], "the same again"
    assert picks(packed(turns, rows=2048, depth_share=1 / 16), 3) == epochs[3], "however they are packed"
    assert picks(packed(turns, rows=512, depth_share=1 / 16, seed=1), 3) != epochs[3]
    everything = tokens.batch(range(tokens.packs.count(0))).first
    assert len(everything.places) == frames + len(turns), "codebook 0 counts on every frame, and where speech ends"


def test_losses_add_up_and_are_logged_apart() -> None:
    tokens = packed(talk())
    batch = tokens.batch(range(tokens.packs.count(0)))
    module = opinionated().requires_grad_(False)
    losses = module(batch)
    torch.testing.assert_close(losses.total, losses.first + 0.7 * losses.depth + 0.3 * losses.text)
    assert losses.codebooks.shape == (BOOKS,)
    torch.testing.assert_close(losses.codebooks[0], losses.first)
    torch.testing.assert_close(losses.codebooks[1:].mean(), losses.depth)
    assert losses.text > 0
    assert LossModule(module.model)(batch).text == 0, "CSM has no loss of the text"
    meter = Meter()
    meter.add_losses(torch.cat([part.reshape(-1) for part in losses]).tolist(), 1.0)
    figures = meter.losses()
    names = {"loss": losses.total, "loss_first": losses.first, "loss_depth": losses.depth, "loss_text": losses.text}
    books = {f"loss_codebook_{book:02}": losses.codebooks[book] for book in range(BOOKS)}
    for name, value in {**names, **books, "accuracy_first": losses.accuracy}.items():
        assert figures[name] == pytest.approx(float(value)), name


def test_a_turn_that_counts_nothing_is_still_context() -> None:
    """Nothing is asked of speaker 0; but what speaker 1 learns depends on what speaker 0 said."""
    turns = [turn for turn in talk(12) if turn.conversation in {"0", "1", "2", "3", "4", "5"}]
    module = opinionated()
    masked = packed(turns, loss_weights={"speaker:0": 0.0})
    batch = masked.batch(range(masked.packs.count(0)))
    of_one = [turn for turn in turns if turn.speaker == 1]
    assert len(batch.first.places) == sum(turn.codes.shape[1] + 1 for turn in of_one)
    assert len(batch.text.places) == sum(len(turn.text_ids) for turn in of_one)
    assert batch.rows_held == int(sum(masked.packs.lengths.rows)), "all rows are read"
    heard = [replace(turn, codes=(turn.codes + 1) % CODES) if turn.speaker == 0 else turn for turn in turns]
    other = packed(heard, loss_weights={"speaker:0": 0.0}).batch(range(masked.packs.count(0)))
    for one, two in zip((batch.first, batch.depth), (other.first, other.depth), strict=True):
        assert torch.equal(one.places, two.places)
        assert torch.equal(batch.rows.flatten(0, 1)[one.places], other.rows.flatten(0, 1)[two.places])
    assert module(batch).first != module(other).first


def test_weights_count_in_the_mean() -> None:
    """A turn of weight 3 counts as if it were there three times."""
    turns = talk(8)
    module = opinionated()
    tokens = packed(turns, loss_weights={"tag:laughing": 3.0})
    weighted = tokens.batch(range(tokens.packs.count(0)))
    plain = weighted._replace(
        **{
            name: Targets(part.places, torch.ones_like(part.weights))
            for name, part in (("first", weighted.first), ("depth", weighted.depth), ("text", weighted.text))
        }
    )
    heavy = plain._replace(
        **{
            name: Targets(part.places, (part.weights == 3.0).float())
            for name, part in (("first", weighted.first), ("depth", weighted.depth), ("text", weighted.text))
        }
    )
    assert heavy.totals.first > 0
    with torch.no_grad():
        all_, tagged = (module(batch, weighted.totals) for batch in (plain, heavy))
        for name in ("total", "first", "depth", "text", "accuracy"):
            torch.testing.assert_close(getattr(module(weighted), name), getattr(all_, name) + 2 * getattr(tagged, name))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({}, 1.0),
        ({"speaker:1": 0.5}, 0.5),
        ({"speaker:2": 0.5}, 1.0),
        ({"other-speakers:2": 0.5}, 0.5),
        ({"other-speakers:1": 0.0}, 1.0),
        ({"tag:laughing": 4.0}, 4.0),
        ({"tag:crying": 4.0}, 1.0),
        ({"untagged": 0.1}, 1.0),
        ({"filler": 0.2}, 0.2),
        ({"filler": 0.2, "speaker:1": 0.5, "tag:laughing": 4.0}, 0.4),
        ({"speaker:1": 0.0, "tag:laughing": 4.0}, 0.0),
    ],
)
def test_selectors(weights: dict[str, float], expected: float) -> None:
    turn = replace(talk(1)[0], speaker=1, tags=("laughing",), text="Well, um, yes.")
    check_weights(weights)
    assert turn_weight(turn, weights) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "filler"),
    [
        ("Um, no.", True), ("Uhh yes", True), ("Hmm.", True), ("you know, it is late", True), ("I mean it", True),
        ("An umbrella.", False), ("The erosion of her humour", False), ("Do you? Know it!", False),
    ],
)  # fmt: skip
def test_filler_words(text: str, filler: bool) -> None:
    turn = replace(talk(1)[0], text=text, tags=())
    assert turn_weight(turn, {"filler": 0.0}) == (0.0 if filler else 1.0)
    assert turn_weight(turn, {"untagged": 0.5}) == 0.5


def test_selectors_that_mean_nothing_are_refused() -> None:
    for selector in ("speakers:1", "speaker", "speaker:", "speaker:ann", "filler:um", "tag"):
        with pytest.raises(InputError, match="selector"):
            check_weights({selector: 1.0})
    for weight in (-1.0, math.nan):
        with pytest.raises(InputError, match="must be 0 or more"):
            check_weights({"filler": weight})
    manifest = {"tags": {"laughing": 3}, "speakers": {"0": "ann", "1": "bob"}}
    check_known({"tag:laughing": 2.0, "speaker:1": 0.0, "other-speakers:0": 0.0, "untagged": 1.0}, manifest)
    with pytest.raises(InputError, match=r"'tag:laugh': no turn of the tokens is tagged so; there are laughing"):
        check_known({"tag:laugh": 2.0}, manifest)
    with pytest.raises(
        InputError, match=r"'speaker:7': the tokens have no such speaker; there are 0 \(ann\), 1 \(bob\)"
    ):
        check_known({"speaker:7": 2.0}, manifest)
