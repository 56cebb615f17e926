use super::{Attention, Grouped, Pattern};
use crate::builder::Builder;
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::order::TokenOrder;

/// A run of tile rows (or columns) that see equally many tiles before and behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Band {
    /// The first.
    pub start: usize,
    /// How many.
    pub size: usize,
    /// How many tiles each sees before it.
    pub before: usize,
    /// And behind it.
    pub behind: usize,
}

impl Band {
    /// Pairs of a tile of the band and a tile that it sees.
    pub fn pairs(&self) -> usize {
        self.size * (self.before + self.behind + 1)
    }
}

/// The bands of `tiles` tiles in order: at most `radius` single ones at each border and one between.
pub fn bands(tiles: usize, radius: usize) -> Vec<Band> {
    let mut bands: Vec<Band> = Vec::new();
    for tile in 0..tiles {
        let (before, behind) = (tile.min(radius), (tiles - 1 - tile).min(radius));
        match bands.last_mut() {
            Some(band) if (band.before, band.behind) == (before, behind) => band.size += 1,
            _ => bands.push(Band { start: tile, size: 1, before, behind }),
        }
    }
    bands
}

/// The operands of a neighbourhood attention, tile by tile.
#[derive(Clone, Copy, Debug)]
pub struct Tiles {
    /// By key-value head, tokens tile by tile.
    pub grouped: Grouped,
    /// Tile rows.
    pub rows: usize,
    /// Tile columns.
    pub cols: usize,
    /// Tokens of a tile.
    pub tokens: usize,
    /// Neighbouring tiles on each side.
    pub radius: usize,
    grid: [usize; 2],
    /// The order that row-major tokens were brought into.
    arranged: Option<TokenOrder>,
}

impl Tiles {
    /// From an attention's operands. Row-major tokens are brought into tiles first.
    ///
    /// # Errors
    /// If the pattern is no neighbourhood, or the operands do not fit.
    pub fn new(b: &mut Builder, op: &Attention, operands: &[ValueId]) -> Result<Self> {
        let Pattern::Neighborhood { grid, tile, radius, order } = op.pattern else {
            return Err(Error::bug("only a neighbourhood has tiles"));
        };
        let arranged = if order.is_row_major() { TokenOrder::new(&[tile]) } else { None };
        let mut moved = operands.to_vec();
        if let Some(order) = arranged {
            moved.iter_mut().try_for_each(|x| -> Result<()> {
                *x = by_token(b, *x, |b, x| order.arrange(b, x, grid))?;
                Ok(())
            })?;
        }
        let grouped = Grouped::new(b, op, &moved)?;
        let (rows, cols) = (grid[0] / tile, grid[1] / tile);
        Ok(Tiles { grouped, rows, cols, tokens: tile * tile, radius, grid, arranged })
    }

    /// `[B, N, h, d]` in the order of the operands, from rows as those of `q`.
    ///
    /// # Errors
    /// If `rows` has another size.
    pub fn heads(&self, b: &mut Builder, rows: ValueId) -> Result<ValueId> {
        let heads = self.grouped.heads(b, rows)?;
        match self.arranged {
            Some(order) => by_token(b, heads, |b, x| order.restore(b, x, self.grid)),
            None => Ok(heads),
        }
    }
}

/// Works on `[B, N, h, d]` as `[B, N, h * d]`.
fn by_token(
    b: &mut Builder,
    x: ValueId,
    work: impl FnOnce(&mut Builder, ValueId) -> Result<ValueId>,
) -> Result<ValueId> {
    let shape = b.ty(x).shape.clone();
    let flat = b.reshape(x, [shape[0], shape[1], shape[2] * shape[3]])?;
    let y = work(b, flat)?;
    b.reshape(y, shape)
}
