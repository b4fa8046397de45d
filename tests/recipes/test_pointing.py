"""Where answers look, against transformers' own attention and the scenes' own boxes."""

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from recipes.architecture import NUM_IMAGE_TOKENS, build_processor
from recipes.batches import Batch, BatchMaker
from recipes.pointing import PlaceHead, ToldHead, Written
from recipes.reading import embed_rows, look_logits, prefix_mask, read_text, text_losses
from recipes.scene_cache import render_shard
from recipes.scenes import render_scene
from recipes.small.third_edition import chosen_tokens
from recipes.tiny import Settings, TinyRecipe, words_of

SIZE = 8
_HW = ((288, 384), (288, 384), (270, 480), (320, 320), (384, 288))


@pytest.fixture(scope="module")
def recipe() -> TinyRecipe:
    shard = render_shard(2, resolution=160, size=SIZE)
    processor = build_processor(words_of(shard.sentences))
    maker = BatchMaker([shard], processor.tokenizer, NUM_IMAGE_TOKENS)
    return TinyRecipe(Settings(steps=1), processor, maker)


@pytest.fixture(scope="module")
def batch(recipe: TinyRecipe) -> Batch:
    return recipe.maker.draw((4,), num_images=4, num_prompts=3)


@torch.no_grad()
def test_our_pass_and_where_it_looks_are_transformers_own(recipe: TinyRecipe, batch: Batch) -> None:
    model = recipe.model.eval()
    text = model.model.language_model
    pictures = torch.randn(12, NUM_IMAGE_TOKENS, 192, generator=torch.Generator().manual_seed(0))
    theirs = model.model(
        input_ids=batch.ids,
        attention_mask=batch.attention,
        token_type_ids=batch.types,
        mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=pictures)},
        output_hidden_states=True,
        output_attentions=True,
    )
    mask = prefix_mask(batch.attention, batch.types, torch.float32)
    embedded = embed_rows(text.embed_tokens, batch.ids, pictures)
    between, after, last = read_text(text, embedded, mask, middle=3)
    here = batch.attention == 1
    for ours, other in (
        (between, theirs.hidden_states[3]),
        (after, theirs.hidden_states[4]),
        (last, theirs.last_hidden_state),
    ):
        torch.testing.assert_close(ours[here], other[here], rtol=1e-4, atol=1e-4)
    for number, state in ((3, between), (4, after)):
        looks = look_logits(text, number, state, mask, NUM_IMAGE_TOKENS).softmax(-1)
        expected = theirs.attentions[number][:, 0, NUM_IMAGE_TOKENS:]
        late = here[:, NUM_IMAGE_TOKENS:]
        torch.testing.assert_close(looks[late], expected[late], rtol=1e-3, atol=1e-5)


def every(rows: int, tokens: int) -> torch.Tensor:
    """All image tokens of every row."""
    return torch.arange(tokens).expand(rows, -1)


def test_what_is_written_lies_where_the_scene_has_it(recipe: TinyRecipe, batch: Batch) -> None:
    first = recipe.maker.first_loc
    written = Written.of(
        batch.ids,
        batch.is_target,
        first_loc=first,
        kept=every(len(batch.ids), NUM_IMAGE_TOKENS),
        grid=10,
    )
    assert len(written.rows) > 6
    for row, columns, bins, cells in zip(
        written.rows, written.columns, written.bins, written.cells, strict=True
    ):
        seed = 2 * SIZE + int(batch.rows[int(row) // 3])
        scene = render_scene(seed, image_hw=_HW[seed % 5])
        height, width = scene.image_hw
        sides = np.array([height, width, height, width])
        truth = np.array([item.xyxy[[1, 0, 3, 2]] for item in scene.objects]) / sides
        near = np.abs(truth - bins.numpy() / 1024).max(1)
        assert near.min() <= 1 / 1024
        top, left, bottom, right = truth[int(near.argmin())]
        # The positions before the coordinates, which predict them.
        assert (batch.ids[row, columns + 1 + NUM_IMAGE_TOKENS] - first).tolist() == bins.tolist()
        places = np.argwhere(cells.reshape(10, 10).numpy())
        middle = [min(9, int((top + bottom) * 5)), min(9, int((left + right) * 5))]
        for y, x in (places + 0.5) / 10:
            assert (top - 0.01 <= y <= bottom + 0.01) or abs(y * 10 - 0.5 - middle[0]) < 0.1
            assert (left - 0.01 <= x <= right + 0.01) or abs(x * 10 - 0.5 - middle[1]) < 0.1
        assert len(places) >= 1


def test_cells_are_counted_among_the_tokens_that_are_kept() -> None:
    """The object lies in the upper right cell of 2 x 2."""
    boxes = [10 + 100, 10 + 600, 10 + 400, 10 + 900]
    for kept, cells in (([1, 3], [[True, False]]), ([0, 1], [[False, True]]), ([0, 2], [])):
        ids = torch.tensor([[0, 0, 9, *boxes, 1]])
        target = torch.tensor([[False] * 3 + [True] * 5])
        written = Written.of(ids, target, first_loc=10, kept=torch.tensor([kept]), grid=2)
        assert written.cells.tolist() == cells  # one that lost all its tokens is left out
        assert written.columns.tolist() == [[0, 1, 2, 3]] * len(cells)


def test_looking_at_the_object_costs_nothing_and_elsewhere_much() -> None:
    ids = torch.tensor([[0, 0, 0, 0, 9, 10 + 100, 10 + 600, 10 + 400, 10 + 900, 1]])
    target = torch.tensor([[False] * 5 + [True] * 5])
    written = Written.of(ids, target, first_loc=10, kept=every(1, 4), grid=2)
    assert written.columns.tolist() == [[0, 1, 2, 3]]
    # Of a grid of 2 x 2: it lies in the upper right cell, and covers only that one's middle.
    assert written.cells.tolist() == [[False, True, False, False]]
    looks = torch.full((1, 6, 10), -30.0)
    looks[0, :, 1] = 0.0
    assert written.missed(looks).item() == pytest.approx(0.0, abs=1e-5)
    looks[0, :, 7] = 0.0  # half of the attention goes elsewhere
    assert written.missed(looks).item() == pytest.approx(np.log(2), abs=1e-5)


def test_what_is_told_is_compared_with_the_words_of_the_answer() -> None:
    torch.manual_seed(0)
    head, table = ToldHead(8), torch.randn(1024, 8)
    bins = torch.tensor([[100, 600, 400, 800]])
    cells = torch.tensor([[False, True, False, False]])
    written = Written(torch.tensor([1]), torch.zeros(1, 4, dtype=torch.long), bins, cells)
    hidden = torch.randn(2, 6, 8)
    found = head.words(head.norm(hidden[1, 1])).reshape(4, 8)
    costs = []
    for row, goal in zip(found, bins[0].tolist(), strict=True):
        chances = (table @ row).log_softmax(-1).detach().double().numpy()
        spread = np.exp(-0.5 * ((np.arange(1024) - goal) / 4) ** 2)
        costs.append(-(chances * spread / spread.sum()).sum())
    words, edges = head(hidden, written, table)
    assert words.item() == pytest.approx(np.mean(costs), rel=1e-4)
    guess = head.edges(head.norm(hidden[1, 1])).detach().numpy()
    sides = np.array([300, 200, 300, 200]) / 1024  # top and bottom end the height
    expected = np.abs(guess - bins[0].numpy() / 1024) / sides
    assert edges.item() == pytest.approx(expected.mean(), rel=1e-4)
    # At the positions 4 + (0, 1, 2, 3) of row 1, which write them.
    written = Written(torch.tensor([1]), torch.arange(4)[None], bins, cells)
    states = torch.randn(2, 9, 8)
    said = head.carried(states[1, 4:8])[:, 0].detach().numpy()
    expected = np.abs(said - bins[0].numpy() / 1024) / sides
    assert head.arrived(states, written, 4).item() == pytest.approx(expected.mean(), rel=1e-4)


def test_dropped_tokens_are_those_that_a_mask_hides(recipe: TinyRecipe, batch: Batch) -> None:
    """Half of the image tokens, each at its own position, against all with the others hidden."""
    torch.manual_seed(1)
    kept = chosen_tokens(batch, 0.5)
    assert kept.shape == (4, 50)
    assert (kept.diff(dim=1) > 0).all()
    objects = batch.dense.present.amax(2)
    assert objects.gather(1, kept).mean() > 1.3 * objects.mean()
    projected, told, place = torch.randn(4, 100, 192), ToldHead(192), PlaceHead(192, grid=10)
    parts = {"asked": recipe.asked, "first_loc": recipe.maker.first_loc, "groups": 1}
    parts["lengths"] = (batch.ids.shape[1],)
    with torch.no_grad():
        found = text_losses(
            recipe.model, projected, batch, told=told, place=place, kept=kept, **parts
        )
        hidden = torch.zeros(4, 100, dtype=torch.long).scatter(1, kept, 1)
        attention = batch.attention.clone()
        attention[:, :100] = hidden.repeat_interleave(3, 0)
        masked = Batch(**{**vars(batch), "attention": attention})
        wanted = text_losses(recipe.model, projected, masked, **parts)
    assert found["suffix"].item() == pytest.approx(wanted["suffix"].item(), rel=1e-4)
    assert all(torch.isfinite(one) for one in found.values())


def test_rows_without_boxes_cost_nothing(recipe: TinyRecipe, batch: Batch) -> None:
    none = Batch(**{**vars(batch), "asked": torch.full_like(batch.asked, -1)})
    rows = torch.arange(12)[batch.asked < 0]
    wordy = batch.is_target[rows]
    written = Written.of(
        batch.ids[rows],
        wordy,
        first_loc=recipe.maker.first_loc,
        kept=every(len(rows), 100),
        grid=10,
    )
    assert len(written.rows) == 0
    hidden = torch.full((len(rows), 20, 120), torch.finfo(torch.float32).min)
    assert written.missed(hidden).item() == 0
    told = text_losses(
        recipe.model, torch.randn(4, 100, 192), none, asked=recipe.asked,
        told=ToldHead(192), first_loc=recipe.maker.first_loc, groups=1,
    )  # fmt: skip
    assert told["asked"].item() == 0
    assert told["looks"].item() > 0


def test_places_are_rows_and_columns() -> None:
    head = PlaceHead(14, grid=4)
    with torch.no_grad():
        head.layers.weight.copy_(torch.eye(14))
        head.layers.bias.zero_()
    code = []
    for place in range(16):
        down, across = (place // 4 + 0.5) / 4, (place % 4 + 0.5) / 4
        for share in (down, across):
            turns = [2 * np.pi * cycles * share for cycles in (1, 2, 4)]
            code.append([np.sqrt(12) * (share - 0.5), *np.cos(turns), *np.sin(turns)])
    tokens = torch.tensor(np.array(code), dtype=torch.float32).reshape(1, 16, 14)
    tokens[..., [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13]] *= 2**0.5
    assert head(tokens).item() == pytest.approx(0.0, abs=1e-6)
    # Tokens that know nothing are off by their spread, which is 1.
    assert head(torch.zeros(1, 16, 14)).item() == pytest.approx(1.0, abs=0.05)
