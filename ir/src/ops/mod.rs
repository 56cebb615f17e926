//! The ops: one closed list. High-level ops say what a model does; primitives are what targets have.
//!
//! A high-level op never holds a width, so that slicing is "cut the weights, replay". An op whose `expand` gives
//! `None` is a primitive (in that form).

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::builder::Builder;
use crate::error::Result;
use crate::graph::ValueId;
use crate::types::TensorType;

pub mod attention;
mod binary;
mod concat;
mod conv2d;
mod embedding;
mod fake_quantize;
mod gelu;
mod heads;
mod linear;
mod maps;
mod matmul;
mod norms;
mod reduce;
mod rotary;
mod shape;
mod split;
mod timestep;
mod unary;

pub use attention::{Attention, MASKED, Pattern};
pub use binary::{Add, Mul, Sub};
pub use concat::Concat;
pub use conv2d::{Conv2d, Layout};
pub use embedding::Embedding;
pub use fake_quantize::FakeQuantize;
pub use gelu::{Gelu, GeluForm};
pub use heads::{MergeHeads, SplitHeads};
pub use linear::Linear;
pub use maps::{MapFromTokens, SplitTokens, TokensFromMap, UpsampleNearest};
pub use matmul::Matmul;
pub use norms::{GroupNorm, LayerNorm, RmsNorm};
pub use reduce::{ReduceMean, Softmax};
pub use rotary::Rotary;
pub use shape::{Cast, Reshape, Slice, Transpose};
pub use split::Split;
pub use timestep::TimestepEmbedding;
pub use unary::{Cos, Relu, Rsqrt, Sigmoid, Silu, Sin, Tanh};

/// Why operands do not fit an op.
pub type Inferred = std::result::Result<Vec<TensorType>, String>;

/// What one op is.
pub trait OpDef: Clone + PartialEq + fmt::Debug + Serialize + DeserializeOwned {
    /// Its name in the text form.
    const NAME: &'static str;
    /// Its operands' names. `bias?` may be missing (only at the end); `x*` stands for one or more.
    const OPERANDS: &'static [&'static str];
    /// Whether it holds sizes that depend on the width, so that it cannot stand in a supernet.
    const HOLDS_SIZES: bool = false;

    /// The types of the results; why not, where operands do not fit. The number of operands is already checked.
    fn infer(&self, operands: &[&TensorType]) -> Inferred;

    /// The same in lower ops; `None` for a primitive.
    fn expand(&self, _builder: &mut Builder, _operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        Ok(None)
    }

    /// Floating-point operations, a multiply-add being two. Zero for what only moves or touches numbers once.
    fn flops(&self, _operands: &[&TensorType], _results: &[&TensorType]) -> u64 {
        0
    }
}

/// Calls a macro with the list of all ops.
#[macro_export]
macro_rules! for_each_op {
    ($callback:ident) => {
        $callback! {
            Linear, Conv2d, Embedding, RmsNorm, LayerNorm, GroupNorm, Attention, Rotary, TimestepEmbedding, Silu,
            Gelu, Split, Concat, SplitHeads, MergeHeads, TokensFromMap, MapFromTokens, SplitTokens, UpsampleNearest,
            Add, Sub, Mul, Matmul, Softmax, ReduceMean, Rsqrt, Tanh, Sigmoid, Relu, Sin, Cos, Transpose, Reshape,
            Slice, Cast, FakeQuantize
        }
    };
}

macro_rules! define {
    ($($op:ident),*) => {
        /// One operation with its attributes.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op {
            $(#[doc = concat!("See [`", stringify!($op), "`].")] $op($op)),*
        }

        $(impl From<$op> for Op {
            fn from(op: $op) -> Op {
                Op::$op(op)
            }
        })*

        impl Op {
            /// The names of all ops, as the text form writes them.
            pub const NAMES: &'static [&'static str] = &[$($op::NAME),*];

            /// Its name in the text form.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$op(_) => $op::NAME),* }
            }

            /// Its operands' names, marked `?` (may be missing) and `*` (one or more).
            pub fn operand_names(&self) -> &'static [&'static str] {
                match self { $(Op::$op(_) => $op::OPERANDS),* }
            }

            /// Whether it holds sizes that depend on the width.
            pub fn holds_sizes(&self) -> bool {
                match self { $(Op::$op(_) => $op::HOLDS_SIZES),* }
            }

            /// The same in lower ops; `None` for a primitive.
            ///
            /// # Errors
            /// If the operands do not fit.
            pub fn expand(&self, builder: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
                match self { $(Op::$op(op) => op.expand(builder, operands)),* }
            }

            /// Floating-point operations; a multiply-add is two.
            pub fn flops(&self, operands: &[&TensorType], results: &[&TensorType]) -> u64 {
                match self { $(Op::$op(op) => op.flops(operands, results)),* }
            }

            fn infer_unchecked(&self, operands: &[&TensorType]) -> Inferred {
                match self { $(Op::$op(op) => op.infer(operands)),* }
            }

            /// Its attributes as a JSON object; empty for an op that has none.
            pub fn attributes(&self) -> String {
                let text = match self { $(Op::$op(op) => serde_json::to_string(op)),* };
                match text.unwrap_or_default().as_str() {
                    "{}" | "null" => String::new(),
                    text => text.to_string(),
                }
            }

            /// Makes an op from its name and its attributes.
            ///
            /// # Errors
            /// If there is no such op, or its attributes are others.
            pub fn from_text(name: &str, attributes: &str) -> std::result::Result<Op, String> {
                let attributes = if attributes.is_empty() { "{}" } else { attributes };
                $(if name == $op::NAME {
                    return serde_json::from_str::<$op>(attributes)
                        .map(Op::$op)
                        .map_err(|error| format!("attributes of {name}: {error}"));
                })*
                Err(format!("there is no op `{name}`"))
            }
        }
    };
}
for_each_op!(define);

impl Op {
    /// Whether each number of the result is made of the numbers at its own place.
    pub fn is_elementwise(&self) -> bool {
        matches!(
            self,
            Op::Add(_)
                | Op::Sub(_)
                | Op::Mul(_)
                | Op::Silu(_)
                | Op::Gelu(_)
                | Op::Rsqrt(_)
                | Op::Tanh(_)
                | Op::Sigmoid(_)
                | Op::Relu(_)
                | Op::Sin(_)
                | Op::Cos(_)
                | Op::Cast(_)
                | Op::FakeQuantize(_)
        )
    }

    /// The types of the results.
    ///
    /// # Errors
    /// Why the operands do not fit, in words that name them.
    pub fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let names = self.operand_names();
        let variadic = names.last().is_some_and(|name| name.ends_with('*'));
        let needed = names.iter().filter(|name| !name.ends_with('?')).count();
        if operands.len() < needed || (!variadic && operands.len() > names.len()) {
            return Err(format!("{} operands given, expected {}", operands.len(), names.join(", ")));
        }
        self.infer_unchecked(operands)
    }
}

/// Fails with words when a condition does not hold.
pub(crate) fn require(condition: bool, message: impl FnOnce() -> String) -> std::result::Result<(), String> {
    if condition { Ok(()) } else { Err(message()) }
}

pub(crate) fn require_rank(name: &str, ty: &TensorType, rank: usize) -> std::result::Result<(), String> {
    require(ty.rank() == rank, || format!("{name} is {ty}, expected {rank} axes"))
}

pub(crate) fn require_type(
    name: &str,
    ty: &TensorType,
    expected: &TensorType,
) -> std::result::Result<(), String> {
    require(ty == expected, || format!("{name} is {ty}, expected {expected}"))
}

pub(crate) fn require_float(name: &str, ty: &TensorType) -> std::result::Result<(), String> {
    require(ty.dtype.is_float(), || format!("{name} is {ty}, expected floating point"))
}
