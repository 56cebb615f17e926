//! Elastic stores: what comes out of the chunks is what was compiled, bit for bit; a wider subnet costs what is new in it; what was altered is
//! found.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use snapc_assemble::{Error, INDEX, Index, Piece, Store, Weave};
use snapc_driver::{
    CompileOptions, Elastic, Part, QuantizeChoice, Ranges, Silent, Target, When, Width, compile,
    elastic_store,
};
use snapc_tests::{files, fixture};

const SUBNETS: [&str; 3] = ["tiny", "small", "full"];

/// Compiles subnets of the fixture into a folder each.
fn compiled(target: Target, encoding: Option<&str>, output: &Path) -> Vec<PathBuf> {
    let width = |name: &str| Width::Subnet(name.to_string());
    let mut options = CompileOptions::new(fixture("shapes"), width("tiny"), target, output.to_path_buf());
    options.widths = SUBNETS.map(width).to_vec();
    options.min_os = snapc_driver::MinOs::Ios18;
    options.ranges = Ranges::Off;
    if let Some(encoding) = encoding {
        let choice =
            QuantizeChoice { encoding: encoding.parse().unwrap(), rank: 0, activations: false };
        options.quantization.parts.insert(Part::Transformer, choice);
        options.quantization.accuracy = When::Off;
    }
    compile(&options, &mut Silent).unwrap().into_iter().map(|compiled| compiled.folder).collect()
}

fn stored(folders: &[PathBuf], place: &Path, chunk_bytes: u64) -> Elastic {
    std::fs::create_dir_all(place).unwrap();
    elastic_store(folders, place, chunk_bytes, &mut Silent).unwrap()
}

/// Of the bytes of weights in wide weaves and out of them.
fn woven(index: &Index, level: usize) -> (u64, u64) {
    let pieces = index.subnets[level].files.iter().flat_map(|file| &file.pieces);
    let narrower = pieces.map(|piece| piece.bytes() - piece.own()).sum();
    (narrower, index.subnets[level - 1].files.iter().map(|file| file.bytes).sum())
}

#[test]
fn each_format_comes_back_bit_for_bit() {
    for target in Target::ALL {
        for encoding in [None, Some("int4 group 32")] {
            let temp = tempfile::tempdir().unwrap();
            let folders = compiled(target, encoding, temp.path());
            let place = temp.path().join("store");
            let elastic = stored(&folders, &place, 100_000);
            for (name, folder) in SUBNETS.iter().zip(&folders) {
                let rebuilt = temp.path().join(format!("rebuilt-{name}"));
                Store::open(&place).unwrap().assemble(name, &rebuilt, &mut |_| {}).unwrap();
                assert!(files(&rebuilt) == files(folder), "{} {encoding:?} {name}", target.name());
            }
            // An upgrade takes the installed folder and the new chunks alone.
            let store = Store::open(&place).unwrap().installed("tiny", &folders[0]).unwrap();
            let needed: Vec<_> = store.needed("small").unwrap().into_iter().map(|chunk| chunk.name.clone()).collect();
            assert!(needed.len() > 1 && needed.iter().all(|name| name.starts_with("small.")), "{needed:?}");
            for chunk in files(&place).keys().filter(|name| name.to_str().unwrap().starts_with("tiny.")) {
                std::fs::remove_file(place.join(chunk)).unwrap();
            }
            let upgraded = temp.path().join("upgraded");
            let mut store = Store::open(&place).unwrap().installed("tiny", &folders[0]).unwrap();
            store.assemble("small", &upgraded, &mut |_| {}).unwrap();
            assert!(files(&upgraded) == files(&folders[1]), "{} {encoding:?}", target.name());
            let index = Store::open(&place).unwrap().index().clone();
            for level in [1, 2] {
                let (narrower, all) = woven(&index, level);
                println!("{} {encoding:?} level {level}: {narrower} of {all} bytes", target.name());
            }
            println!("{} {encoding:?}: {:.3} {:?}", target.name(), elastic.ratio(), elastic.subnets);
        }
    }
}
