use snapc_ir::Node;

use super::{LARGEST, MARGIN};

/// What was done to some nodes of one op for one reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// The op.
    pub op: &'static str,
    /// Why, and what.
    pub reason: String,
    /// How many nodes.
    pub count: usize,
    /// The path of the first.
    pub first: String,
}

/// Why a node is not computed as it is in f16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A value that it makes or reads has no power that the op knows: f32.
    Value,
    /// A weight does not fit at its power: f32.
    Weight,
    /// Products of queries and keys may pass f16: f32.
    Scores,
    /// A norm's x has rows too large for f16 and others too small to be scaled with them: f32.
    Rows,
    /// Its result is held at a power.
    Held,
    /// A norm's x is held at a power for its squares.
    Squares,
}

/// A note while it is counted.
struct Noted {
    why: Why,
    size: f32,
    power: i32,
    note: Note,
}

impl Noted {
    fn note(self) -> Note {
        let Noted { why, size, power, note } = self;
        let bound = format!("{LARGEST} / {MARGIN}");
        let reason = match why {
            Why::Value => format!("the largest value, {size:.1e}, passes {bound}: computed in f32"),
            Why::Weight => {
                format!("a weight of up to {size:.1e} cannot be scaled inside f16: computed in f32")
            }
            Why::Scores => format!("scores of up to {size:.1e} pass {bound}: computed in f32"),
            Why::Rows => format!(
                "a row's squares sum to {size:.1e}, others are too small to be scaled with it: computed in f32"
            ),
            Why::Held => {
                format!("the largest value, {size:.1e}, passes {bound}: held as 2^-{power} of itself")
            }
            Why::Squares => {
                format!("a row's squares sum to {size:.1e}: its input is held as 2^-{power} of itself")
            }
        };
        Note { reason, ..note }
    }
}

/// Notes while they are counted, one an op and reason.
#[derive(Default)]
pub struct Notes(Vec<Noted>);

impl Notes {
    /// Counts a node; of its numbers the largest are kept.
    pub fn add(&mut self, node: &Node, why: Why, size: f32, power: i32) {
        let op = node.op.name();
        match self.0.iter_mut().find(|known| known.note.op == op && known.why == why) {
            Some(known) => {
                known.note.count += 1;
                known.size = known.size.max(size);
                known.power = known.power.max(power);
            }
            None => {
                let note = Note { op, reason: String::new(), count: 1, first: node.scope.to_string() };
                self.0.push(Noted { why, size, power, note });
            }
        }
    }

    /// The notes, in the order of their first nodes.
    pub fn finish(self) -> Vec<Note> {
        self.0.into_iter().map(Noted::note).collect()
    }
}
