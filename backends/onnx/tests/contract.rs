//! The names and types that other software expects are the file's alone.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::Path;

use common::{Case, case, cases};
use snapc_backend::{Backend, Part, legalize};
use snapc_ir::text;
use snapc_onnx::{Layout, Onnx};

const OPTIMUM: Onnx = Onnx { layout: Layout::Optimum };

/// Graphs with the ports of the parts. The last one's inputs are outputs too, and its values have the names that the file's have.
const PARTS: [(&str, &str); 4] = [
    (
        "text_encoder",
        r"
        input %ids: i32[2, 3]
        weight @table: f32[7, 40] = tensor f32[7, 40]
        %y = embedding %ids, @table : f32[2, 3, 40]
        output text %y
        ",
    ),
    (
        "vae_decoder",
        r"
        input %latent: f32[2, 3]
        %y = sigmoid %latent : f32[2, 3]
        output image %y
        ",
    ),
    (
        "transformer",
        r"
        input %latent: f32[2, 3]
        input %timestep: f32[1]
        input %text: f32[2, 3]
        input %text_mask: f32[2, 3]
        %a = add %latent, %text : f32[2, 3]
        %b = mul %a, %text_mask : f32[2, 3]
        %c = mul %b, %timestep : f32[2, 3]
        output velocity %c
        ",
    ),
    (
        "transformer",
        r"
        input %text_mask: f32[2, 3]
        input %latent: f32[2, 3]
        %sample = sigmoid %text_mask : f32[2, 3]
        output velocity %sample
        output hidden_states %sample
        output encoder_attention_mask_ %text_mask
        output latent_ %latent
        ",
    ),
];

fn parts() -> impl Iterator<Item = Case> {
    // The text form names an input as its value.
    PARTS.iter().map(|(name, body)| case(name, &body.replace("%ids", "%input_ids")))
}

fn write(onnx: Onnx, case: &Case, path: &Path) -> String {
    let legal = legalize(&case.graph, &onnx).unwrap_or_else(|error| panic!("{}: {error}", case.name));
    let facts = [("a".to_string(), "b".to_string())];
    let part = Part::new(legal.clone(), &case.store, &facts);
    onnx.write(part, path, &mut |_| {}).unwrap();
    text::print(&legal)
}

fn ports(bytes: &[u8], names: &[&str]) -> Vec<bool> {
    names.iter().map(|name| bytes.windows(name.len()).any(|found| found == name.as_bytes())).collect()
}

#[test]
fn both_layouts_read_back_as_one_graph() {
    // A graph that is no part has no contract: its names stay.
    for case in parts().take(3).chain(cases()) {
        let folder = tempfile::tempdir().unwrap();
        let [ours, theirs] = ["ours", "theirs"].map(|name| folder.path().join(name));
        let written = write(Onnx::default(), &case, &ours);
        assert_eq!(written, write(OPTIMUM, &case, &theirs), "{}", case.name);
        // Whichever backend reads sees the layout in the file.
        let [ours, theirs] = [ours, theirs].map(|path| text::print(&Onnx::default().read(&path).unwrap().0));
        assert_eq!(ours, theirs, "{}", case.name);
    }
}

#[test]
fn the_file_has_the_names_of_the_contract() {
    let names = ["hidden_states", "encoder_hidden_states", "encoder_attention_mask", "out_hidden_states"];
    let case = parts().nth(2).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (onnx, expected) in [(Onnx::default(), false), (OPTIMUM, true)] {
        let path = folder.path().join(onnx.layout.name());
        write(onnx, &case, &path);
        let bytes = std::fs::read(path.join("model.onnx")).unwrap();
        assert_eq!(ports(&bytes, &names), [expected; 4]);
        assert_eq!(ports(&bytes, &["velocity", "snapc.layout"]), [!expected, expected]);
    }
    assert_eq!(
        Layout::Optimum.port("transformer", "text_mask"),
        Some(("encoder_attention_mask", Some("i64")))
    );
    assert_eq!(Layout::Optimum.port("transformer", "latent"), Some(("hidden_states", None)));
    assert_eq!(Layout::Default.port("transformer", "latent"), None);
}

#[test]
fn two_ports_of_one_name_are_refused() {
    let case = parts().nth(3).unwrap();
    assert!(legalize(&case.graph, &Onnx::default()).is_ok());
    let error = legalize(&case.graph, &OPTIMUM).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("both named hidden_states"), "{error}");
}

#[test]
fn layouts_have_names() {
    for layout in Layout::ALL {
        assert_eq!(layout.name().parse(), Ok(layout));
    }
    let error = "other".parse::<Layout>().unwrap_err();
    assert_eq!(error, "`other` is no layout; the layouts are default, optimum");
}

#[test]
fn damage_is_named() {
    let faults: [(&[u8], &[u8], &str); 5] = [
        (b"optimum", b"optimun", "`optimun` is no layout"),
        // The Cast of the mask, to f32: to int32 and with another attribute.
        (b"to\x18\x01", b"to\x18\x06", "the Cast is to 6, expected 1"),
        (b"\x02to\x18", b"\x02tu\x18", "the attribute to is missing"),
        (b"\x22\x04Cast", b"\x22\x04Tanh", "is int64, which only a Cast may read"),
        // The type of the mask's port: float for int64.
        (
            b"\x0a\x16encoder_attention_mask\x12\x0e\x0a\x0c\x08\x07",
            b"\x0a\x16encoder_attention_mask\x12\x0e\x0a\x0c\x08\x01",
            "expected int64",
        ),
    ];
    let case = parts().nth(2).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part");
    write(OPTIMUM, &case, &path);
    let file = path.join("model.onnx");
    let model = std::fs::read(&file).unwrap();
    for (from, to, words) in faults {
        let at = model.windows(from.len()).position(|bytes| bytes == from);
        let at = at.unwrap_or_else(|| panic!("{} is not in the model", from.escape_ascii()));
        let mut damaged = model.clone();
        damaged[at..at + to.len()].copy_from_slice(to);
        std::fs::write(&file, damaged).unwrap();
        let error = OPTIMUM.read(&path).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(words), "{}: {error}", to.escape_ascii());
    }
}

#[test]
fn damaged_bytes_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    for (number, case) in parts().take(3).enumerate() {
        let path = folder.path().join(number.to_string());
        write(OPTIMUM, &case, &path);
        let file = path.join("model.onnx");
        let model = std::fs::read(&file).unwrap();
        for at in 0..model.len() {
            for bits in [1, 6, 0x80] {
                let mut damaged = model.clone();
                damaged[at] ^= bits;
                std::fs::write(&file, damaged).unwrap();
                let _ = OPTIMUM.read(&path);
            }
        }
    }
}
