import pytest

from actune.core.errors import ConfigError
from actune.core.types import Conversation, Message, Source
from actune.data.mix import MixPlan, draw, mix, plan_mix, plan_validation, split_validation

GOLDEN_DRAW = [6, 7, 3, 1, 5, 4, 2, 9, 8, 10, 8, 1]
GOLDEN_VALIDATION = [1, 5]


def rows_of(count, dataset="agent"):
    return tuple(
        Conversation(
            messages=(Message(role="user", content=f"{dataset} {n}"), Message(role="assistant", content="ok")),
            source=Source(file=f"{dataset}.jsonl", line=n + 1, dataset=dataset),
        )
        for n in range(count)
    )


def keys(rows):
    return [(row.source.dataset, row.source.line) for row in rows]


# --- numbers --------------------------------------------------------------------------------------------------------


def test_the_reference_mixture():
    # 30,000 agent rows 1 : 2 with 380,000 general ones (REFERENCE: 30,000 + 60,000).
    plan = plan_mix(30_000, 380_000, sample=-1, ratio=2.0)
    assert plan == MixPlan(agent=30_000, general=60_000)


@pytest.mark.parametrize(
    ("agent_rows", "sample", "ratio", "agent", "general"),
    [
        (100, -1, 0.0, 100, 0),
        (100, -1, 0.25, 100, 25),
        (5, -1, 0.3, 5, 2),  # 1.5 rounds half up, though 0.3 is a little less in binary
        (100, 90, 2.0, 30, 60),
        (100, 10, 2.0, 3, 7),
        (100, 11, 2.0, 4, 7),
        (100, 3, 1.0, 2, 1),
        (100, 50, 0.0, 50, 0),
        (100, 0, 2.0, 0, 0),
    ],
)
def test_counts(agent_rows, sample, ratio, agent, general):
    assert plan_mix(agent_rows, 10_000, sample=sample, ratio=ratio) == MixPlan(agent=agent, general=general)


def test_a_sample_beyond_the_agent_rows_keeps_the_ratio_and_says_so():
    plan = plan_mix(10, 1000, sample=300, ratio=2.0)
    assert (plan.agent, plan.general) == (10, 20)
    assert len(plan.notices) == 1
    assert all(part in plan.notices[0] for part in ("300", "100 agent rows", "there are 10", "30 rows in total"))


def test_general_rows_that_repeat_are_announced():
    assert plan_mix(10, 20, sample=-1, ratio=2.0).notices == ()
    assert "each is used 1 or 2 times" in plan_mix(10, 19, sample=-1, ratio=2.0).notices[0]
    assert "each is used 2 times" in plan_mix(10, 10, sample=-1, ratio=2.0).notices[0]


def test_ratio_zero_does_not_look_at_general_rows():
    assert plan_mix(10, 0, sample=-1, ratio=0.0) == MixPlan(agent=10, general=0)


def test_an_empty_general_source_is_refused_when_wanted():
    with pytest.raises(ConfigError, match="the general source has none"):
        plan_mix(10, 0, sample=-1, ratio=1.0)


@pytest.mark.parametrize("ratio", [-0.1, float("nan"), float("inf")])
def test_bad_ratio(ratio):
    with pytest.raises(ConfigError, match="train_dataset_mix_ratio"):
        plan_mix(10, 10, sample=-1, ratio=ratio)


def test_bad_sample():
    with pytest.raises(ConfigError, match="train_dataset_sample"):
        plan_mix(10, 10, sample=-2, ratio=1.0)


@pytest.mark.parametrize(
    ("rows", "ratio", "count", "said"),
    [
        (3600, 0.01, 36, False),
        (50, 0.01, 1, False),  # 0.5 rounds to 1
        (10, 0.01, 1, False),  # at least one
        (3600, 0.0, 0, False),
        (1, 0.01, 0, True),
        (0, 0.01, 0, True),
        (4, 1.0, 3, True),  # a row stays for training
    ],
)
def test_validation_counts(rows, ratio, count, said):
    plan = plan_validation(rows, ratio=ratio)
    assert (plan.count, bool(plan.notices)) == (count, said)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_bad_validation_ratio(ratio):
    with pytest.raises(ConfigError, match="validation_ratio"):
        plan_validation(10, ratio=ratio)


# --- rows -----------------------------------------------------------------------------------------------------------


def test_validation_is_spread_over_the_file():
    _, validation = split_validation(rows_of(1000), ratio=0.1, seed=42)
    lines = [row.source.line for row in validation]
    assert len(lines) == 100
    assert min(lines) < 100
    assert max(lines) > 900


def test_the_drawn_rows_do_not_depend_on_numpy_state_or_version():
    # Fixed for good: the same run has to see the same rows after an upgrade.
    assert [row.source.line for row in draw(rows_of(10), 12, 42)] == GOLDEN_DRAW
    train, validation = split_validation(rows_of(20), ratio=0.1, seed=42)
    assert [row.source.line for row in validation] == GOLDEN_VALIDATION
    assert len(train) == 18


def test_purposes_have_streams_of_their_own():
    rows = rows_of(50)
    assert draw(rows, 50, 7, purpose="agent") != draw(rows, 50, 7, purpose="general")


def test_drawing_from_nothing_is_refused():
    assert draw((), 0, 0) == ()
    with pytest.raises(ConfigError, match="3 rows cannot be drawn from 0"):
        draw((), 3, 0)
    with pytest.raises(ConfigError):
        draw(rows_of(2), -1, 0)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_bad_seed(seed):
    with pytest.raises(ConfigError, match="seed"):
        draw(rows_of(2), 1, seed)


def test_mix_interleaves_the_kinds():
    agent, general, identity = rows_of(200), rows_of(400, "general"), rows_of(30, "identity")
    mixed = mix(agent, general, identity, plan_mix(200, 400, sample=-1, ratio=2.0), 42)
    assert len(mixed) == 630
    first = {dataset for dataset, _ in keys(mixed)[:63]}
    assert first == {"agent", "general", "identity"}


def test_mix_refuses_a_plan_for_other_rows():
    with pytest.raises(ConfigError, match="5 agent rows, there are 3"):
        mix(rows_of(3), (), (), MixPlan(agent=5, general=0), 0)
