//! Rebuilds the subnets of an elastic store: `tiny` from its chunks, `small` from `tiny` and the bytes that are new in it, and so on, each
//! bit for bit the folder that `snapc compile` wrote. It needs nothing but the standard library, so an app can take it in as it is.
//!
//! ```no_run
//! use snapc_assemble::Store;
//! use std::path::Path;
//!
//! // The first start: the chunks of `tiny` came with the app.
//! let (chunks, models) = (Path::new("chunks"), Path::new("models"));
//! Store::open(chunks)?.assemble("tiny", &models.join("tiny"), &mut |_| {})?;
//! // Later the chunks of `small` were downloaded; those of `tiny` may be gone.
//! let mut store = Store::open(chunks)?.installed("tiny", &models.join("tiny"))?;
//! store.assemble("small", &models.join("small"), &mut |bytes| println!("{bytes} more bytes"))?;
//! # Ok::<(), snapc_assemble::Error>(())
//! ```
//!
//! `docs/elastic.md` describes the store, for whoever reads it in another language.

mod error;
mod index;
mod sha256;
mod store;

pub use error::{Error, Result};
pub use index::{Chunk, FileEntry, Index, Piece, Subnet, Weave};
pub use store::{INDEX, Store};
