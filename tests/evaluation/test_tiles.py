from itertools import product

import pytest
import torch
from einops import rearrange

from hybridgen.evaluation import tiles as tiles_module
from hybridgen.evaluation.tiles import Tiles


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def direct(x, y):
    return (x[:, None] - y[None]).square().sum(dim=2)


def assembled(tiles):
    rows = [[tiles.tile(r, c).double().clone() for c in tiles.columns] for r in tiles.rows]
    return torch.cat([torch.cat(row, dim=1) for row in rows])


@pytest.mark.parametrize("hurried", [False, True])
@pytest.mark.parametrize("apart", [0.0, 30.0, 1e6])
def test_squared_distances_are_right_within_the_tolerance(apart, hurried):
    x = torch.randn(70, 9, generator=rng(), dtype=torch.float64)
    y = torch.randn(90, 9, generator=rng(1), dtype=torch.float64) + apart
    tiles = Tiles(x + 1e4, y + 1e4, chunk=32)
    exact, rough = direct(x + 1e4, y + 1e4), tiles.tolerance
    if hurried:
        tiles.hurry(1e30)
        assert tiles.tile(tiles.rows[0], tiles.columns[0]).dtype == torch.float32
        assert tiles.tolerance > 1e8 * rough
    error = (assembled(tiles) - exact).abs().amax()
    assert error <= tiles.tolerance
    assert tiles.tolerance < 1e5 * max(float(error), 1e-30)


def test_single_precision_is_used_only_where_it_is_fine_enough():
    x = torch.randn(40, 3, generator=rng())
    tiles, scale = Tiles(x, x, chunk=16), float(direct(x, x).median())
    tiles.hurry(1e-6 * scale)
    assert tiles.tile(tiles.rows[0], tiles.columns[1]).dtype == torch.float64
    tiles.hurry(scale)
    assert tiles.tile(tiles.rows[0], tiles.columns[1]).dtype == torch.float32


@pytest.mark.parametrize("hurried", [False, True])
def test_the_signs_are_those_of_exact_differences_also_on_the_edge(hurried):
    x = torch.randint(3, (60, 4), generator=rng()).double() / 10
    y = torch.randint(3, (50, 4), generator=rng(1)).double() / 10
    apart = direct(x, y).sqrt()
    by_row = apart[torch.arange(60), torch.randint(50, (60,), generator=rng(2))]
    by_column = apart[torch.randint(60, (50,), generator=rng(3)), torch.arange(50)]
    tiles = Tiles(x, y, chunk=16)
    if hurried:
        tiles.hurry(1e30)
    ties = 0
    for rows, columns in product(tiles.rows, tiles.columns):
        r, c = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
        for radii in (rearrange(by_row[r], "n -> n 1"), by_column[c]):
            squared, exact = tiles.tile(rows, columns), apart[r, c] - radii
            ties += int((exact == 0).sum())
            beyond = tiles.beyond(squared, radii, rows, columns)
            assert torch.equal(beyond.sign().double(), exact.sign())
            least = tiles.least_beyond(squared, radii, rows, columns)
            assert torch.equal(least.sign().double(), exact.amin(dim=1).sign())
    assert ties > 100


def test_factors_that_are_not_kept_are_made_again(monkeypatch):
    x, y = torch.randn(70, 9, generator=rng()), torch.randn(90, 9, generator=rng(1))
    kept = assembled(Tiles(x, y, chunk=16))
    for limit in (1, 4_000):
        monkeypatch.setattr(tiles_module, "KEPT", limit)
        assert torch.equal(assembled(Tiles(x, y, chunk=16)), kept)


def test_sets_that_cannot_be_compared_are_refused():
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(3, 1\)"):
        Tiles(x, x[:, :1], chunk=4)
    with pytest.raises(ValueError, match="need points and a chunk"):
        Tiles(x, x[:0], chunk=4)
    with pytest.raises(ValueError, match="expected finite features"):
        Tiles(x, x / 0, chunk=4)
