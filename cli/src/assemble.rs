//! The words of `assemble`.

use std::path::PathBuf;

use clap::Args;
use snapc_driver::{AssembleOptions, assemble};
use snapc_ir::{Error, Result};

use crate::report::{Terminal, print, print_json};

/// Rebuild a subnet's folder from an elastic store
#[derive(Args)]
#[command(after_help = "\
Examples:
  snapc assemble dist/bundle/desktop/elastic --subnet tiny -o models/tiny
  snapc assemble downloads --subnet small --installed tiny=models/tiny -o models/small

An elastic store is what `snapc bundle --elastic` writes: elastic.index and chunks (docs/elastic.md). A wider subnet is the narrower one plus bands: with
--installed the bytes of the narrower one come from its folder, and its chunks need not be there. What is made is bit for bit what was
compiled; every file is checked against the digest in the index, and the folder appears whole or not at all.")]
#[allow(missing_docs)]
pub struct AssembleArgs {
    /// The folder with elastic.index and the chunks
    pub store: PathBuf,
    /// The subnet to make
    #[arg(long, value_name = "NAME")]
    pub subnet: String,
    /// A narrower subnet that was assembled before, and its folder
    #[arg(long, value_name = "NAME=DIR", value_parser = parse_installed)]
    pub installed: Option<(String, PathBuf)>,
    /// The folder to make
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,
}

fn parse_installed(text: &str) -> std::result::Result<(String, PathBuf), String> {
    let (name, folder) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=DIR"))?;
    Ok((name.to_string(), PathBuf::from(folder)))
}

/// Runs the command.
///
/// # Errors
/// What the driver finds.
pub fn run(args: AssembleArgs, json: bool) -> Result<()> {
    let AssembleArgs { store, subnet, installed, output } = args;
    let mut report = Terminal::new(json);
    let done = assemble(&AssembleOptions { store, subnet, installed, output }, &mut report)?;
    report.finish();
    if json {
        print_json(&serde_json::to_value(&done).map_err(Error::bug)?);
    } else {
        print(&format!(
            "{}: {} files, {:.2} MB, from {:.2} MB of chunks\n",
            done.folder.display(),
            done.files,
            done.bytes as f64 / 1e6,
            done.chunk_bytes as f64 / 1e6
        ));
    }
    Ok(())
}
