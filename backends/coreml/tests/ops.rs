//! Every op and every rule: made legal, written, read back.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{assert_same, cases, files, graph, write, write_to};
use snapc_backend::Backend;
use snapc_coreml::{CoreMl, MinOs};
use snapc_ir::DType;

#[test]
fn a_package_says_what_the_legal_graph_says() {
    for case in cases() {
        for dtype in [DType::F32, DType::F16] {
            let graph = graph(&case, dtype);
            for min_os in MinOs::ALL {
                let written = write(&graph, min_os);
                let (read, store) = CoreMl { min_os }
                    .read(&written.package)
                    .unwrap_or_else(|error| panic!("{} {dtype} {min_os}: {error}", case.name));
                assert_same(&written.legal, &written.store, &read, &store);
            }
        }
    }
}

#[test]
fn a_package_has_the_same_bytes_each_time() {
    for case in cases() {
        let graph = graph(&case, DType::F16);
        let written = write(&graph, MinOs::Ios17);
        let again = written.folder.path().join("again.mlpackage");
        write_to(&written.legal, &written.store, MinOs::Ios17, &again);
        assert!(files(&written.package) == files(&again), "{}", case.name);
    }
}
