"""The corruption, its reversal, and the times of training."""

import pytest
import torch
from conftest import generator

from vadd import Cosine, InputError, Linear, Masking, stratified_times


def times(value: float, num: int) -> torch.Tensor:
    return torch.full((num,), value, dtype=torch.float64)


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=lambda s: type(s).__name__)
def test_tokens_are_masked_at_the_rate_of_the_schedule(schedule):
    masking = Masking(5, schedule)
    x = torch.randint(5, (20_000, 4), generator=generator())
    for t in (0.2, 0.7):
        x_t = masking.corrupt(x, times(t, len(x)), generator(1))
        masked = masking.is_masked(x_t)
        rate = 1 - schedule.alpha(torch.tensor(t)).item()
        assert masked.double().mean().item() == pytest.approx(rate, abs=4 * 0.5 / 80_000**0.5)
        assert torch.equal(x_t[~masked], x[~masked])
    assert masking.is_masked(masking.corrupt(x, times(1, len(x)), generator())).all()
    assert torch.equal(masking.corrupt(x, times(0, len(x)), generator()), x)


def test_corrupting_to_t_and_revealing_to_s_is_corrupting_to_s():
    masking, num = Masking(3, Cosine()), 100_000
    x = torch.randint(3, (num, 2), generator=generator())
    x_t = masking.corrupt(x, times(0.8, num), generator(1))
    x_s = masking.reveal(x_t, x, times(0.8, num), times(0.3, num), generator(2))
    direct = masking.corrupt(x, times(0.3, num), generator(3))
    for both in (lambda a: masking.is_masked(a).all(1), lambda a: masking.is_masked(a).any(1)):
        assert both(x_s).double().mean().item() == pytest.approx(both(direct).double().mean().item(), abs=0.01)
    visible = ~masking.is_masked(x_t)
    assert torch.equal(x_s[visible], x_t[visible])
    assert torch.equal(masking.reveal(x_t, x, times(0.8, num), times(0, num), generator()), x)


def test_inputs_are_never_changed():
    masking = Masking(4)
    x = torch.randint(4, (10, 3), generator=generator())
    before = x.clone()
    x_t = masking.corrupt(x, times(0.5, 10), generator())
    also = x_t.clone()
    masking.reveal(x_t, x, times(0.5, 10), times(0.1, 10), generator())
    assert torch.equal(x, before)
    assert torch.equal(x_t, also)


def test_times_of_all_ranks_together_fill_every_stratum_once():
    world, each = 4, 25
    parts = [stratified_times(each, generator(7), rank=rank, world=world) for rank in range(world)]
    t = torch.cat(parts).sort().values
    assert ((t > 0) & (t <= 1)).all()
    strata = torch.ceil(t * 100).long()
    assert torch.equal(strata, torch.arange(1, 101)) or torch.allclose(t.diff(), torch.full((99,), 0.01).double())


def test_mistakes_are_told():
    with pytest.raises(InputError, match="vocab_size must be at least 2, got 1"):
        Masking(1)
