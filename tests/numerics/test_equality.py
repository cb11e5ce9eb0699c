"""Packed training is the plain model's training: losses and gradients, fp32, relative 1e-5."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actune.data.pack import pack, unroll
from actune.modeling.adapters import attach_adapter
from actune.modeling.fused.decoder import Decoder
from actune.modeling.fused.projection import Projection, draw_kept, round_share
from actune.modeling.fused.trial import prepare_decoder
from actune.modeling.isolation import prepare_packing
from actune.modeling.targets import resolve_targets
from actune.training.memory import enable_checkpointing
from actune.training.step import StepInput, TrainStep

CPU = torch.device("cpu")


def gradients(model):
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        gap = torch.linalg.vector_norm(found[name] - tensor) / torch.linalg.vector_norm(tensor).clamp_min(1e-12)
        assert float(gap) < 1e-5, name


def train_plainly(kit, model, rows):
    """Every root-to-leaf sequence by itself through the plain model: full logits, torch's cross entropy."""
    weight = sum(float(tree.target_weights.sum()) for tree in rows)
    total = 0.0
    for line in (line for tree in rows for line in unroll(tree)):
        losses = kit.add_up_line(model, line)
        (losses.sum() / weight).backward()
        total += float(losses.detach().sum()) / weight
    return total, gradients(model)


def train_packed(model, groups, *, decoder=None, share=False):
    weight = sum(float(tree.target_weights.sum()) for rows in groups for tree in rows)
    step = TrainStep(model, decoder=decoder)
    total = 0.0
    for rows in groups:
        loss, _ = step(StepInput.of(pack(rows, share=share), CPU, packed=True))
        (loss / weight).backward()
        total += float(loss.detach()) / weight
    return total, gradients(model)


def adapt(model, targets=("ALL+head",), **changes):
    """Put adapters on a model that are not zero."""
    names = resolve_targets(model, list(targets)).modules
    model = attach_adapter(model, modules=names, **({"rank": 4, "alpha": 8, "dropout": 0.0, "seed": 0} | changes))
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return model


def build_similar(kit, count):
    """Rows that begin alike in several places, some of them branching."""
    from dataclasses import replace

    rows = kit.build_rows(count)
    ids = kit.build_line(40, seed=1000).input_ids
    for place, row in enumerate(rows):
        common = min(len(row), (3, 5, 8)[place % 3])
        rows[place] = replace(row, input_ids=np.concatenate([ids[:common], row.input_ids[common:]]))
    return rows


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_packed_rows_and_branches_train_as_sequences_one_by_one(kit, kind, lora, checkpointing):
    rows = kit.build_rows(7)
    assert any(tree.has_branches for tree in rows)

    def build():
        model = kit.build_model(kind, tie_word_embeddings=kind == "qwen3")
        return (adapt(model) if lora else model).train()

    loss, wanted = train_plainly(kit, build(), rows)
    model = build()
    inner = model.get_base_model() if lora else model
    assert prepare_packing(inner) is None
    if checkpointing:
        enable_checkpointing(inner)
        assert inner.model.layers[0].gradient_checkpointing
    model.train()
    packed_loss, found = train_packed(model, [rows])
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    close(found, wanted)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("targets", [("ALL",), ("ALL+head",), ("DEFAULT",), ("down_proj", "q_proj")])
@pytest.mark.parametrize(("kind", "tied"), [("qwen3", True), ("llama", False), ("qwen2", True)])
def test_the_fused_decoder_trains_as_the_plain_model(kit, kind, tied, targets, recompute):
    rows = build_similar(kit, 9)
    loss, wanted = train_plainly(kit, adapt(kit.build_model(kind, tie_word_embeddings=tied), targets).train(), rows)
    model = kit.build_model(kind, tie_word_embeddings=tied)
    assert prepare_packing(model) is None
    model = adapt(model, targets)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    decoder = prepare_decoder(model)
    assert isinstance(decoder, Decoder), decoder
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    decoder.recompute = recompute
    model.train()
    for groups in ([rows], [rows[:4], rows[4:]]):
        model.zero_grad()
        found_loss, found = train_packed(model, groups, decoder=decoder, share=True)
        assert found_loss == pytest.approx(loss, rel=1e-5)
        close(found, wanted)
    # The model's own forward pass goes on working on the weights that were moved.
    model.zero_grad()
    own_loss, own = train_packed(model, [rows])
    assert own_loss == pytest.approx(loss, rel=1e-5)
    close(own, wanted)


def test_shared_beginnings_train_as_rows_one_by_one(kit):
    rows = build_similar(kit, 9)
    model = kit.build_model()
    loss, wanted = train_plainly(kit, model, rows)
    model.zero_grad()
    assert prepare_packing(model) is None
    assert len(pack(rows, share=True)) < len(pack(rows)) - 20
    packed_loss, found = train_packed(model, [rows], share=True)
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    close(found, wanted)


def test_fused_dropout_drops_the_stated_share_and_is_seeded(kit):
    model = kit.build_model()
    assert prepare_packing(model) is None
    model = adapt(model, dropout=0.3)
    decoder = prepare_decoder(model)
    assert isinstance(decoder, Decoder), decoder
    rows = kit.build_rows(5)
    losses = {}
    for mode in ("eval", "train", "again", "recomputed", "other"):
        model.train(mode != "eval")
        torch.manual_seed(1 if mode == "other" else 0)
        decoder.recompute = mode == "recomputed"
        model.zero_grad()
        losses[mode] = train_packed(model, [rows], decoder=decoder)
    assert losses["train"][0] == losses["again"][0] == losses["recomputed"][0] != losses["other"][0]
    assert losses["eval"][0] != losses["train"][0]
    close(losses["recomputed"][1], losses["train"][1])
    kept = draw_kept(400, 250, 0.3, CPU)
    assert float(kept.float().mean()) == pytest.approx(0.7, abs=0.01)
    assert round_share(0.05) == pytest.approx(0.05, abs=1e-5)


def test_what_the_fused_decoder_does_not_know_is_left_to_the_model(kit):
    from transformers import AutoModelForCausalLM, Gemma2Config

    model = AutoModelForCausalLM.from_config(
        Gemma2Config(
            vocab_size=kit.VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            attn_logit_softcapping=None,
        )
    )
    assert prepare_packing(model) is None
    assert isinstance(prepare_decoder(adapt(model, ("DEFAULT",))), str)
    other = kit.build_model()
    prepare_packing(other)
    other = adapt(other, ("DEFAULT",))
    other.get_base_model().model.layers[1].mlp.act_fn = torch.nn.GELU()
    assert "GELU" in prepare_decoder(other)
    # A layer that looks right and computes something else is found by the trial.
    twin = kit.build_model()
    prepare_packing(twin)
    twin = adapt(twin, ("DEFAULT",))
    layer = twin.get_base_model().model.layers[0]
    original = layer.mlp.forward
    layer.mlp.forward = lambda states: 1.01 * original(states)
    assert "differs" in prepare_decoder(twin)


def test_sliding_windows_train_as_in_the_plain_model(kit):
    from transformers import AutoModelForCausalLM, MistralConfig

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=kit.VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=5,
        initializer_range=0.2,
    )
    rows = kit.build_rows(6)
    model = AutoModelForCausalLM.from_config(config)
    loss, wanted = train_plainly(kit, model, rows)
    model.zero_grad()
    assert prepare_packing(model) is None
    packed_loss, found = train_packed(model, [rows])
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    close(found, wanted)
    config._attn_implementation = "sdpa"
    plain = adapt(AutoModelForCausalLM.from_config(config), ("ALL",))
    state = plain.state_dict()
    loss, wanted = train_plainly(kit, plain, rows)
    model = AutoModelForCausalLM.from_config(config)
    assert prepare_packing(model) is None
    model = adapt(model, ("ALL",))
    model.load_state_dict(state)
    decoder = prepare_decoder(model)
    assert isinstance(decoder, Decoder), decoder
    packed_loss, found = train_packed(model, [rows], decoder=decoder, share=True)
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    close(found, wanted)


def test_micro_batches_do_not_change_the_step(kit):
    rows = kit.build_rows(8)
    results = []
    for groups in ([rows], [[row] for row in rows]):
        model = kit.build_model()
        assert prepare_packing(model) is None
        results.append(train_packed(model, groups))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    close(results[0][1], results[1][1])


def test_a_head_on_supervised_positions_is_the_head_on_all(kit):
    batch = pack(kit.build_rows(5))
    inputs = StepInput.of(batch, CPU, packed=True)
    assert len(inputs.kept) < len(batch)
    assert len(inputs.targets.rows) > len(inputs.kept)  # branches share a position
    model = kit.build_model()
    assert prepare_packing(model) is None
    results = []
    for cuts in (True, False):
        step = TrainStep(model)
        assert step.cuts_logits
        step.cuts_logits = cuts
        loss, weight = step(inputs)
        model.zero_grad()
        loss.backward()
        results.append((float(loss.detach()), float(weight), gradients(model)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    assert results[0][1] == results[1][1] == pytest.approx(float(batch.target_weights.sum()))
    close(results[0][2], results[1][2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_of_the_head_is_that_of_all_logits_at_once(dtype, monkeypatch):
    from actune.modeling import head

    monkeypatch.setattr(head, "chunk_bytes", lambda _: 0)  # the least rows a chunk
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 300, bias=False).to(dtype).requires_grad_(False)
    hidden = torch.randn(50, 24, dtype=dtype, requires_grad=True)
    rows = torch.arange(50).repeat_interleave(2)
    ids = torch.stack([torch.arange(50), torch.arange(50) + 100], dim=1).reshape(-1)
    weights = torch.rand(100) + 0.1
    weights[6:8] = 0.0  # a position that counts nothing
    targets = head.Targets(rows=rows, ids=ids, weights=weights, first=np.arange(51) * 2)
    found = head.HeadLoss.apply(hidden, Projection([layer], [], 0.0), targets, True)
    logs = torch.log_softmax(layer(hidden).float(), dim=-1)
    wanted = -(logs[rows, ids] * weights).sum()
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    one, other = (torch.autograd.grad(loss, hidden)[0].float() for loss in (found, wanted))
    assert float((one - other).norm() / other.norm()) < (1e-6 if dtype == torch.float32 else 1e-2)


def test_token_weights_scale_gradients(kit):
    from dataclasses import replace

    row = kit.build_line(12, seed=0)
    model = kit.build_model()
    assert prepare_packing(model) is None
    results = []
    for factor in (1.0, 3.0):
        scaled = replace(row, target_weights=row.target_weights * factor)
        model.zero_grad()
        loss, _ = TrainStep(model)(StepInput.of(pack([scaled]), CPU, packed=True))
        loss.backward()
        results.append({name: gradient / factor for name, gradient in gradients(model).items()})
    close(results[0], results[1])


def test_loss_weights_of_parts_weigh_the_likelihood_of_their_tokens(kit, tokenizer_folder):
    """Loss and gradients of rows as they are encoded, against words searched in the text and the model's own logits."""
    from actune.core.parts import read_weights
    from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
    from actune.render.encoder import Encoder

    asked = Message(role="user", content="Weather?")
    call = Message(role="assistant", reasoning="I look.", tool_calls=(ToolCall(name="weather", arguments="{}"),))
    seen, answer = Message(role="tool", content="sunny"), Message(role="assistant", content="Sunny.", weight=0.5)
    row = Conversation(
        messages=(asked, call, seen, answer),
        tools=(ToolSpec(name="weather", parameters={"type": "object"}),),
        style="react",
        source=Source(file="x", line=1),
    )
    weights = read_weights(["thought=0", "action=2", "action_input=3", "stop=5"])
    encoder = Encoder.from_folder(tokenizer_folder, weights=weights)
    wanted = {"Thought: I look.\n": 0, "Action: weather\n": 2, "Action Input: {}\n": 3, "Observation:": 5}
    wanted |= {"Final Answer: Sunny.": 0.5, "<|im_end|>": 2.5}
    model = kit.build_model(vocab_size=512)
    total, weight = 0.0, 0.0
    pieces = iter(wanted.items())
    for turn in encoder.encode_turns(row):
        ids = torch.tensor(turn.ids)
        losses = torch.nn.functional.cross_entropy(model(ids[None]).logits[0, :-1], ids[1:], reduction="none")
        text, at = "", turn.start
        for piece, factor in pieces:
            while text != piece:
                assert piece.startswith(text)
                text += encoder.renderer.tokenizer.decode([turn.ids[at]])
                total, weight = total + factor * losses[at - 1], weight + factor
                at += 1
            text = ""
            if at == len(turn.ids):
                break
    (total / weight).backward()
    plain = gradients(model)
    model.zero_grad()
    assert prepare_packing(model) is None
    loss, packed = train_packed(model, [[encoder.encode(row)]])
    assert loss == pytest.approx(float(total.detach() / weight), rel=1e-5)
    close(packed, plain)
