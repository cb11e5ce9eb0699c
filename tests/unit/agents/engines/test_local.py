"""The engine in this process: exact outputs, alone, in a batch and with keys and values used again."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    MambaConfig,
    MistralConfig,
    MptConfig,
    OpenAIGPTConfig,
    Qwen3NextConfig,
)

from actune.agents.engines.engine import Request, Sampling
from actune.agents.engines.loading import load_engine
from actune.agents.engines.local import LocalEngine
from actune.core.errors import ConfigError, ModelError
from actune.modeling.adapters import attach_adapter, save_adapter
from actune.render.dialects import Stops
from actune.render.tokenizer import TextTokenizer

VOCABULARY = 496
NOWHERE = Stops(tokens=frozenset())
BATCHED = ("qwen3", "llama", "mistral", "gpt2", "bloom", "mpt")
# Models with another cache than keys and values, and one without any.
ALONE = ("mamba", "qwen3_next", "openai-gpt")

pytestmark = pytest.mark.usefixtures("one_thread")


def build(kit, kind: str):
    small = {"vocab_size": VOCABULARY, "initializer_range": 0.3}
    if kind in ("qwen3", "llama"):
        return kit.build_model(kind, **small)
    torch.manual_seed(7)
    tiny = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **small}
    configs = {
        "mistral": lambda: MistralConfig(
            **tiny, intermediate_size=48, num_key_value_heads=2, max_position_embeddings=256, sliding_window=9
        ),
        "gpt2": lambda: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **small),
        "openai-gpt": lambda: OpenAIGPTConfig(n_embd=32, n_layer=2, n_head=4, n_positions=256, **small),
        "bloom": lambda: BloomConfig(hidden_size=32, n_layer=2, n_head=4, **small),
        "mpt": lambda: MptConfig(d_model=32, n_layers=2, n_heads=4, max_seq_len=256, **small),
        "mamba": lambda: MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=8, **small),
        "qwen3_next": lambda: Qwen3NextConfig(
            **tiny,
            intermediate_size=48,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=256,
            layer_types=["linear_attention", "full_attention"],
            linear_num_key_heads=2,
            linear_num_value_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=16,
        ),
    }
    return AutoModelForCausalLM.from_config(configs[kind](), dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> TextTokenizer:
    return TextTokenizer.from_folder(tokenizer_folder)


@pytest.fixture(scope="module")
def qwen3(kit):
    return build(kit, "qwen3")


def prompts(lengths, seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 480, (length,), generator=generator).tolist() for length in lengths]


def ask(prompt, **changes) -> Request:
    return replace(Request(prompt=prompt, stops=NOWHERE, max_tokens=20), **changes)


def continue_plainly(model, prompt, count: int) -> list[int]:
    """Greedy, without any cache: the model on the whole text again and again."""
    ids = list(prompt)
    options = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]), **options).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def read(tokenizer, prompt, ids) -> str:
    stream = tokenizer.stream(prompt)
    return "".join(map(stream.push, ids)) + stream.finish()


@pytest.mark.parametrize("kind", [*BATCHED, *ALONE])
def test_a_batch_gives_what_the_plain_model_gives(kit, tokenizer, kind):
    model = build(kit, kind).eval()
    engine = LocalEngine(model, tokenizer, batch_size=3)
    assert (engine.fault is None) == (kind in BATCHED)
    asked = prompts([5, 30, 12, 1, 21])
    lengths = [20, 3, 11, 20, 7]
    found = engine.generate([ask(prompt, max_tokens=size) for prompt, size in zip(asked, lengths, strict=True)])
    for prompt, size, one in zip(asked, lengths, found, strict=True):
        assert one.text == read(tokenizer, prompt, continue_plainly(model, prompt, size))
        assert (one.tokens, one.reason) == (size, "length")


@pytest.mark.parametrize("kind", ["qwen3", "mistral", "gpt2"])
def test_turns_that_use_keys_and_values_again_are_those_computed_anew(kit, tokenizer, kind):
    model = build(kit, kind).eval()
    fast, plain = LocalEngine(model, tokenizer), LocalEngine(model, tokenizer, cache_tokens=0)
    tokens = []
    forward = model.forward
    model.forward = lambda **given: tokens.append(given["input_ids"].numel()) or forward(**given)
    prompt, before = prompts([40])[0], 0
    for turn in range(4):
        tokens.clear()
        (found,) = fast.generate([ask(prompt, max_tokens=8)])
        computed = sum(tokens)
        assert found.text == plain.generate([ask(prompt, max_tokens=8)])[0].text
        assert computed <= len(prompt) - before + 7  # what is new in the prompt, and the steps after the first
        before = len(prompt)
        prompt = [*prompt, *tokenizer.encode_after(found.text), *prompts([6], seed=turn)[0]]
    assert fast.kept_tokens >= len(prompt) - 7
    assert plain.kept_tokens == 0


def test_logits_after_a_kept_prefix_are_those_of_the_whole(qwen3, tokenizer):
    engine = LocalEngine(qwen3, tokenizer)
    text = prompts([50])[0]
    engine.generate([ask(text[:30], max_tokens=5)])
    (found,) = engine.score([(text[:40], text[40:])])
    shared = engine.score([(text[:40], text[40:]), (text[:40], text[40:45])])
    logits = qwen3(input_ids=torch.tensor([text])).logits[0].detach().float().log_softmax(-1)
    expected = [float(logits[39 + place, token]) for place, token in enumerate(text[40:])]
    assert found == pytest.approx(expected, abs=1e-5)
    assert shared[0] == pytest.approx(expected, abs=1e-5)
    assert shared[1] == pytest.approx(expected[:5], abs=1e-5)


@pytest.mark.parametrize("kind", ["qwen3", "mistral", "gpt2", "mpt", "mamba", "openai-gpt"])
def test_scores_are_those_of_one_plain_forward_pass(kit, tokenizer, kind):
    model = build(kit, kind).eval()
    engine = LocalEngine(model, tokenizer, batch_size=3)
    asked = prompts([5, 30, 12, 1, 21, 7])
    ends = prompts([4, 1, 17, 3, 0, 9], seed=2)
    sequences = list(zip(asked, ends, strict=True)) + [(asked[1], end) for end in (*ends[:4], [])]
    for (prompt, end), found in zip(sequences, engine.score(sequences), strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *end]])).logits[0].log_softmax(-1)
        expected = [float(logits[len(prompt) - 1 + place, token]) for place, token in enumerate(end)]
        assert found == pytest.approx(expected, abs=1e-5)


def test_a_shared_prompt_is_computed_once(qwen3, tokenizer):
    engine = LocalEngine(qwen3, tokenizer, cache_tokens=0)
    seen = []
    forward = qwen3.forward
    qwen3.forward = lambda **given: seen.append(tuple(given["input_ids"].shape)) or forward(**given)
    try:
        prompt = prompts([100])[0]
        engine.score([(prompt, [choice]) for choice in (5, 6, 7, 8)])
        assert seen == [(1, 100)]
        seen.clear()
        engine.score([(prompt, [choice, 9, 9]) for choice in (5, 6, 7, 8)])
        assert seen == [(1, 100), (4, 2)]
    finally:
        qwen3.forward = forward


def test_stop_word_stop_token_and_streamed_pieces(qwen3, tokenizer):
    engine = LocalEngine(qwen3, tokenizer, batch_size=2)
    prompt = prompts([9])[0]
    ids = continue_plainly(qwen3, prompt, 12)
    text = read(tokenizer, prompt, ids)
    middle = text[: len(text) // 2]
    asked = [
        ask(prompt, stops=Stops(tokens=frozenset({ids[5]}))),
        ask(prompt, stops=Stops(tokens=frozenset(), words=(text[:3],))),
        ask(prompt, stops=Stops(tokens=frozenset(), texts=(middle[-2:],))),
    ]
    pieces: dict[int, str] = {}
    found = engine.generate(asked, on_text=lambda index, piece: pieces.update({index: pieces.get(index, "") + piece}))
    assert [one.reason for one in found] == ["token", "word", "text"]
    first = ids.index(ids[5])
    assert found[0].text == read(tokenizer, prompt, ids[:first])
    assert found[0].tokens == first + 1
    assert found[1].text == text[:3]
    assert found[2].text == text[: text.index(middle[-2:])]
    assert [pieces.get(index, "") for index in range(3)] == [one.text for one in found]


def test_a_seed_gives_the_same_output_alone_and_beside_others(qwen3, tokenizer):
    engine = LocalEngine(qwen3, tokenizer, batch_size=3)
    asked = [
        ask(prompt, sampling=Sampling(temperature=0.9, top_p=0.9, seed=seed))
        for seed, prompt in enumerate(prompts([8, 8, 20, 3]))
    ]
    together = [one.text for one in engine.generate(asked)]
    alone = [LocalEngine(qwen3, tokenizer, cache_tokens=0).generate([one])[0].text for one in asked]
    assert together == alone
    others = [
        engine.generate([ask(asked[0].prompt, sampling=Sampling(temperature=0.9, seed=n))])[0].text for n in range(4)
    ]
    assert len(set(others)) == 4


def test_a_small_top_p_is_greedy_and_bad_sampling_is_refused(qwen3, tokenizer):
    engine = LocalEngine(qwen3, tokenizer)
    prompt = prompts([8])[0]
    greedy = engine.generate([ask(prompt)])[0].text
    assert engine.generate([ask(prompt, sampling=Sampling(temperature=2.0, top_p=1e-9, seed=3))])[0].text == greedy
    assert engine.generate([ask(prompt, sampling=Sampling(temperature=1e-6, seed=3))])[0].text == greedy
    for wrong in (Sampling(temperature=-1), Sampling(temperature=float("nan")), Sampling(temperature=1, top_p=0)):
        with pytest.raises(ConfigError):
            engine.generate([ask(prompt, sampling=wrong)])


def test_the_context_ends_an_output_and_refuses_a_longer_prompt(qwen3, tokenizer):
    engine = LocalEngine(qwen3, tokenizer)
    assert engine.context == 256
    short, full = engine.generate([ask(prompt, max_tokens=50) for prompt in prompts([250, 256])])
    assert (short.tokens, short.reason) == (6, "length")
    assert (full.tokens, full.reason, full.text) == (0, "length", "")
    with pytest.raises(ModelError, match=r"257 tokens.*at most 256"):
        engine.generate([ask(prompts([257])[0])])
    with pytest.raises(ModelError, match="257 tokens"):
        engine.score([(prompts([250])[0], [1] * 7)])


def test_what_the_model_cannot_take_is_refused_by_name(qwen3, tokenizer):
    engine = LocalEngine(qwen3, tokenizer)
    with pytest.raises(ModelError, match="empty"):
        engine.generate([ask([])])
    with pytest.raises(ModelError, match=f"token {VOCABULARY} "):
        engine.generate([ask([1, VOCABULARY])])
    with pytest.raises(ModelError, match="token -1 "):
        engine.score([([1], [-1])])


def test_a_deadline_ends_an_output_and_leaves_the_others_alone(qwen3, tokenizer, monkeypatch):
    engine = LocalEngine(qwen3, tokenizer)
    prompt, other = prompts([8, 9])
    past, (whole,) = time.monotonic() - 1, engine.generate([ask(other)])
    late, kept = engine.generate([ask(prompt, deadline=past), ask(other)])
    assert (late.reason, late.tokens, late.text) == ("time", 0, "")
    assert (kept.text, kept.reason) == (whole.text, "length")
    clock = iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    (cut,) = engine.generate([ask(prompt, deadline=12.0)])
    assert cut.reason == "time"
    assert 0 < cut.tokens < 20


def test_broken_weights_are_an_error_not_an_output(kit, tokenizer):
    model = build(kit, "qwen3")
    engine = LocalEngine(model, tokenizer)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="finite"):
        engine.generate([ask([5, 6])])


def test_an_interrupt_leaves_the_engine_usable(qwen3, tokenizer):
    engine = LocalEngine(qwen3, tokenizer)
    asked = [ask(prompt) for prompt in prompts([8, 20])]
    expected = LocalEngine(qwen3, tokenizer).generate(asked)

    def interrupt(index, piece):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate(asked, on_text=interrupt)
    assert [one.text for one in engine.generate(asked)] == [one.text for one in expected]


def test_kept_tokens_are_bounded(qwen3, tokenizer):
    engine = LocalEngine(qwen3, tokenizer, cache_tokens=64)
    for prompt in prompts([30, 25, 40, 90]):
        engine.generate([ask(prompt, max_tokens=4)])
        assert engine.kept_tokens <= 64


def test_rows_of_one_call_share_their_beginning(qwen3, tokenizer):
    engine = LocalEngine(qwen3, tokenizer)
    seen = []
    forward = qwen3.forward
    qwen3.forward = lambda **given: seen.append(given["input_ids"].shape[1]) or forward(**given)
    try:
        start = prompts([50])[0]
        engine.generate([ask([*start, *end], max_tokens=1) for end in prompts([3, 3, 3])])
        assert seen == [53, 3, 3]
    finally:
        qwen3.forward = forward


def test_an_adapter_can_be_switched_off_and_its_keys_and_values_are_not_mixed(kit, tokenizer_folder, tmp_path):
    model = build(kit, "qwen3")
    model.save_pretrained(tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "base" / name).write_bytes((tokenizer_folder / name).read_bytes())
    adapted = attach_adapter(model, modules=["q_proj", "v_proj", "embed_tokens"], rank=4, alpha=8, dropout=0.1, seed=1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    save_adapter(adapted, tmp_path / "adapter")
    asked = [ask(prompt) for prompt in prompts([30, 12])]
    base = [one.text for one in load_engine(tmp_path / "base", dtype="fp32").generate(asked)]
    engine = load_engine(tmp_path / "base", tmp_path / "adapter", dtype="fp32")
    tuned = [one.text for one in engine.generate(asked)]
    assert tuned != base
    kept = engine.kept_tokens
    with engine.without_adapter() as plain:
        assert plain.kept_tokens == 0
        assert [one.text for one in plain.generate(asked)] == base
    assert engine.kept_tokens == kept
    assert [one.text for one in engine.generate(asked)] == tuned
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors"):
        load_engine(tmp_path / "base", tmp_path / "adapter", dtype="fp32")


def test_a_model_that_padding_disturbs_is_run_row_by_row(qwen3, tokenizer):
    """The trial is on the model itself: here one that sees its padding."""
    forward = qwen3.forward

    def careless(input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None):
        # The cache by place: transformers calls it otherwise since 5.24.
        return forward(input_ids, None, position_ids, past_key_values, use_cache=use_cache)

    expected = [one.text for one in LocalEngine(qwen3, tokenizer).generate([ask(p) for p in prompts([30, 4])])]
    qwen3.forward = careless
    try:
        engine = LocalEngine(qwen3, tokenizer)
        assert engine.batch_size == 1
        assert "differs" in engine.fault
        assert [one.text for one in engine.generate([ask(prompt) for prompt in prompts([30, 4])])] == expected
    finally:
        qwen3.forward = forward
