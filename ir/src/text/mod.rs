//! The text form, `.sir`: a graph as lines that a person reads and a program parses back to the same graph.
//!
//! ```text
//! graph text_path supernet
//!   input  %text: f32[2, 16, 64]
//!   weight @text_proj.0.weight: f32[~128, 64] = tensor f16[128, 64]
//!   scope text_proj.0
//!   %0 = linear %text, @text_proj.0.weight : f32[2, 16, 128]
//!   output text %0
//! ```
//!
//! `~128` is an elastic axis, `6x~128` one of six chunks. A weight's source is `tensor TYPE[..] NAME` (the name only
//! where it differs), `inline {..}` or `table {..}`; transforms follow behind bars: `take AXIS KEEP`, `take AXIS CHUNKSxKEEP`,
//! `transpose AXES`, `reshape SIZES`. An op's attributes are a JSON object. `;` starts a comment.

mod parse;
mod print;

pub use parse::parse;
pub use print::print;
