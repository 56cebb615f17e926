//! In which order the tokens of a grid lie.

use serde::{Deserialize, Serialize};

use crate::builder::Builder;
use crate::error::{Error, Result};
use crate::graph::ValueId;

/// The most squares that lie in each other.
const LEVELS: usize = 3;

/// Squares inside squares, outermost first: `[8, 2]` cuts the grid into squares of 8 x 8 tokens, row by row, each of them into
/// squares of 2 x 2, row by row, and those are row-major. Without a square the whole grid is row-major.
///
/// A convolution whose kernel is its stride then reads tokens that lie behind each other, and so does a tile's attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "Vec<usize>", try_from = "Vec<usize>")]
pub struct TokenOrder {
    /// Zero where there is none.
    sides: [usize; LEVELS],
}

impl TokenOrder {
    /// The order of these squares; a square of one token or as large as the one around it is none. `None` where a side does not
    /// divide the one before it, or there are too many.
    pub fn new(sides: &[usize]) -> Option<Self> {
        let mut order = TokenOrder::default();
        let mut kept = 0;
        let mut outer = 0;
        for &side in sides.iter().filter(|&&side| side != 1) {
            if side == outer {
                continue;
            }
            if side == 0 || kept == LEVELS || (outer != 0 && !outer.is_multiple_of(side)) {
                return None;
            }
            order.sides[kept] = side;
            outer = side;
            kept += 1;
        }
        Some(order)
    }

    /// The sides of the squares, outermost first.
    pub fn sides(&self) -> &[usize] {
        let count = self.sides.iter().take_while(|&&side| side != 0).count();
        &self.sides[..count]
    }

    /// Whether there is no square.
    pub fn is_row_major(&self) -> bool {
        self.sides().is_empty()
    }

    /// Whether the squares divide a grid.
    pub fn fits(&self, grid: [usize; 2]) -> bool {
        self.sides().first().is_none_or(|&side| grid.iter().all(|size| size.is_multiple_of(side)))
    }

    /// The order of the windows of side `window` when each has become one token; `None` where a window's tokens do not lie behind
    /// each other.
    pub fn coarser(&self, window: usize) -> Option<Self> {
        if window == 1 {
            return Some(*self);
        }
        let at = self.sides().iter().position(|&side| side == window)?;
        let sides: Vec<usize> = self.sides[..at].iter().map(|side| side / window).collect();
        TokenOrder::new(&sides)
    }

    /// The order when each token has become a square of `factor` x `factor`; `None` where that is too deep.
    pub fn finer(&self, factor: usize) -> Option<Self> {
        let mut sides: Vec<usize> = self.sides().iter().map(|side| side * factor).collect();
        sides.push(factor);
        TokenOrder::new(&sides)
    }

    /// The order of the tokens inside one window of side `window`.
    pub fn inside(&self, window: usize) -> Self {
        let inner: Vec<usize> = self.sides().iter().copied().filter(|&side| side < window).collect();
        TokenOrder::new(&inner).unwrap_or_default()
    }

    /// Row and column of each token, in order.
    pub fn places(&self, grid: [usize; 2]) -> Vec<[usize; 2]> {
        let mut places: Vec<[usize; 2]> = vec![[0, 0]];
        let mut size = grid;
        for side in self.sides().iter().copied().chain([1]) {
            let [rows, cols] = size.map(|size| size / side.max(1));
            let squares = |[row, col]: [usize; 2]| {
                (0..rows * cols).map(move |at| [row + at / cols * side, col + at % cols * side])
            };
            places = places.into_iter().flat_map(squares).collect();
            size = [side, side];
        }
        places
    }

    /// Brings row-major tokens into this order: two moves of four axes a square. `x [B, rows * cols, C]`.
    ///
    /// # Errors
    /// If the squares do not divide the grid.
    pub fn arrange(&self, b: &mut Builder, x: ValueId, grid: [usize; 2]) -> Result<ValueId> {
        let shape = b.ty(x).shape.clone();
        let mut x = x;
        for [count, rows, cols, side, channels] in self.moves(&shape, grid)? {
            x = b.reshape(x, [count * rows / side, side, cols / side, side * channels])?;
            x = b.transpose(x, &[0, 2, 1, 3])?;
        }
        b.reshape(x, shape)
    }

    /// The inverse of [`TokenOrder::arrange`].
    ///
    /// # Errors
    /// As there.
    pub fn restore(&self, b: &mut Builder, x: ValueId, grid: [usize; 2]) -> Result<ValueId> {
        let shape = b.ty(x).shape.clone();
        let mut x = x;
        for [count, rows, cols, side, channels] in self.moves(&shape, grid)?.into_iter().rev() {
            x = b.reshape(x, [count * rows / side, cols / side, side, side * channels])?;
            x = b.transpose(x, &[0, 2, 1, 3])?;
        }
        b.reshape(x, shape)
    }

    /// For each square: how many grids it cuts, their rows and columns, its side, and the numbers of a token.
    fn moves(&self, shape: &[usize], grid: [usize; 2]) -> Result<Vec<[usize; 5]>> {
        let fits = self.fits(grid) && shape.len() == 3 && shape[1] == grid[0] * grid[1];
        let [batch, tokens, channels] = shape[..] else {
            return Err(Error::bug("tokens have three axes"));
        };
        if !fits {
            return Err(Error::bug(format!("{self:?} does not fit a grid of {} x {}", grid[0], grid[1])));
        }
        let mut outer = grid;
        let mut moves = Vec::new();
        for &side in self.sides() {
            moves.push([batch * tokens / (outer[0] * outer[1]), outer[0], outer[1], side, channels]);
            outer = [side, side];
        }
        Ok(moves)
    }
}

impl From<TokenOrder> for Vec<usize> {
    fn from(order: TokenOrder) -> Vec<usize> {
        order.sides().to_vec()
    }
}

impl TryFrom<Vec<usize>> for TokenOrder {
    type Error = String;

    fn try_from(sides: Vec<usize>) -> std::result::Result<Self, String> {
        TokenOrder::new(&sides).ok_or_else(|| format!("{sides:?} are no squares that lie in each other"))
    }
}

#[cfg(test)]
mod tests {
    use super::TokenOrder;

    fn order(sides: &[usize]) -> TokenOrder {
        TokenOrder::new(sides).unwrap_or_default()
    }

    #[test]
    fn places_of_squares() {
        assert_eq!(order(&[]).places([2, 2]), [[0, 0], [0, 1], [1, 0], [1, 1]]);
        let squares = order(&[2]).places([2, 4]);
        assert_eq!(squares, [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]]);
        let nested = order(&[4, 2]).places([4, 4]);
        assert_eq!(nested[..5], [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2]]);
        assert_eq!(nested[8..10], [[2, 0], [2, 1]]);
    }

    #[test]
    fn windows_become_tokens() {
        assert_eq!(order(&[8, 2]).coarser(2), Some(order(&[4])));
        assert_eq!(order(&[8, 4, 2]).coarser(4), Some(order(&[2])));
        assert_eq!(order(&[8, 4, 2]).inside(4), order(&[2]));
        assert_eq!(order(&[8, 2]).coarser(4), None);
        assert_eq!(order(&[4]).finer(2), Some(order(&[8, 2])));
        assert_eq!(TokenOrder::new(&[6, 4]), None);
        assert_eq!(order(&[4, 4, 1]), order(&[4]));
    }
}
