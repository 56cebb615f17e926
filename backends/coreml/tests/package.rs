//! What a written package is made of, and what is refused before one is written.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;

use common::{cases, files, graph, write};
use coreml_proto::proto::mil_spec::value::Value as Content;
use coreml_proto::proto::mil_spec::{Block, Operation};
use coreml_proto::proto::{Model, model};
use prost::Message;
use snapc_backend::{Backend, Native, Part, legalize};
use snapc_coreml::{CoreMl, MinOs};
use snapc_ir::ops::{Conv2d, Gelu, GeluForm, Layout, Op, Reshape, Tanh};
use snapc_ir::{Builder, Class, DType, Dim, Error, Graph, Stage, TensorType, Weight};
use snapc_weights::Store;

const MODEL: &str = "Data/com.apple.CoreML/model.mlmodel";
const WEIGHTS: &str = "Data/com.apple.CoreML/weights/weight.bin";

fn case(name: &str, dtype: DType) -> Graph {
    graph(cases().iter().find(|case| case.name == name).unwrap(), dtype)
}

fn written_model(graph: &Graph, min_os: MinOs) -> Model {
    let written = write(graph, min_os);
    Model::decode(&files(&written.package)[MODEL][..]).unwrap()
}

fn block(model: &Model) -> Block {
    let Some(model::Type::MlProgram(program)) = &model.r#type else { panic!("no ML Program") };
    let function = &program.functions["main"];
    function.block_specializations[&function.opset].clone()
}

fn operation<'a>(block: &'a Block, kind: &str) -> &'a Operation {
    block.operations.iter().find(|operation| operation.r#type == kind).unwrap()
}

#[test]
fn the_manifest_lists_the_model_and_the_weights() {
    let files = files(&write(&case("linear_and_gelu", DType::F16), MinOs::Ios17).package);
    assert_eq!(files.keys().collect::<Vec<_>>(), [MODEL, WEIGHTS, "Manifest.json"]);
    let manifest: serde_json::Value = serde_json::from_slice(&files["Manifest.json"]).unwrap();
    assert_eq!(manifest["fileFormatVersion"], "1.0.0");
    let items = manifest["itemInfoEntries"].as_object().unwrap();
    let root = &items[manifest["rootModelIdentifier"].as_str().unwrap()];
    assert_eq!(root["path"], "com.apple.CoreML/model.mlmodel");
    let paths: BTreeSet<&str> = items.values().map(|item| item["path"].as_str().unwrap()).collect();
    assert_eq!(paths, BTreeSet::from(["com.apple.CoreML/model.mlmodel", "com.apple.CoreML/weights"]));
    for identifier in items.keys() {
        let lengths: Vec<usize> = identifier.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12], "{identifier}");
        assert_eq!(&identifier[14..15], "8", "{identifier}");
    }
}

/// The same program with other weights is another model.
#[test]
fn identifiers_follow_from_the_weights() {
    let manifest = |weights: &str| {
        let mut b = Builder::new("part", Stage::Subnet);
        let x = b.input("x", TensorType::new(DType::F32, [2, 16]));
        let dims = vec![Dim::fixed(16), Dim::fixed(16)];
        let mut weight = Weight::tensor(weights, DType::F32, dims);
        weight.name = "weight".to_string();
        let weight = b.weight(weight).unwrap();
        let y = b.linear(x, weight, None).unwrap();
        b.output("y", y);
        let mut files = files(&write(&b.finish().unwrap(), MinOs::Ios17).package);
        (files.remove(MODEL).unwrap(), files.remove("Manifest.json").unwrap())
    };
    let (one, other) = (manifest("one"), manifest("other"));
    assert!(one.0 == other.0 && one.1 != other.1);
}

#[test]
fn the_description_says_what_the_function_takes() {
    let model = written_model(&case("embedding", DType::F16), MinOs::Ios16);
    let description = model.description.unwrap();
    let names = |list: &[coreml_proto::proto::FeatureDescription]| {
        list.iter().map(|feature| feature.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        (names(&description.input), names(&description.output)),
        (vec!["ids".into()], vec!["output_1".into()])
    );
    let metadata = description.metadata.unwrap();
    assert_eq!(metadata.user_defined["config"], "{\"width\": 4}");
    assert_eq!(metadata.user_defined["snapc.graph"], "embedding");
    assert_eq!(metadata.user_defined.len(), 3);
}

#[test]
fn each_system_has_its_specification_and_its_parameters() {
    for (min_os, specification, opset, validates) in [
        (MinOs::Ios16, 7, "CoreML6", false),
        (MinOs::Ios17, 8, "CoreML7", true),
        (MinOs::Ios18, 9, "CoreML8", true),
    ] {
        let model = written_model(&case("embedding", DType::F32), min_os);
        assert_eq!(model.specification_version, specification);
        let Some(model::Type::MlProgram(program)) = &model.r#type else { panic!("no ML Program") };
        assert_eq!(program.functions["main"].opset, opset);
        assert_eq!(operation(&block(&model), "gather").inputs.contains_key("validate_indices"), validates);
        assert_eq!(min_os.name().parse::<MinOs>(), Ok(min_os));
        assert_eq!(min_os.name().to_lowercase().parse::<MinOs>(), Ok(min_os));
    }
    let error = "iOS15".parse::<MinOs>().unwrap_err();
    assert!(error.contains("iOS16, iOS17, iOS18"), "{error}");
}

/// Header, records and numbers lie at multiples of 64; small constants are not in the file.
#[test]
fn the_weight_file_is_laid_out_in_blocks_of_64() {
    let files = files(&write(&case("linear_and_gelu", DType::F16), MinOs::Ios17).package);
    let weights = &files[WEIGHTS];
    let u32_at = |at: usize| u32::from_le_bytes(weights[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(weights[at..at + 8].try_into().unwrap());
    assert_eq!((u32_at(0), u32_at(4)), (2, 2));
    // 32 x 16 and 32 numbers of f16.
    let mut at = 64;
    for bytes in [1024, 64] {
        assert_eq!((u32_at(at), u32_at(at + 4)), (0xDEAD_BEEF, 1));
        assert_eq!((u64_at(at + 8), u64_at(at + 16), u64_at(at + 24)), (bytes, at as u64 + 64, 0));
        at += 64 + bytes as usize;
    }
    assert_eq!(weights.len(), at);
}

#[test]
fn gaps_between_blobs_are_zero() {
    let files = files(&write(&case("same_weight_twice", DType::F32), MinOs::Ios17).package);
    // One blob of 16 numbers for two recipes of the same bytes.
    assert_eq!(files[WEIGHTS].len(), 128 + 64);
    let files = files_of_two_odd_weights();
    // 11 numbers of f16, then a gap up to 192, a record, and 13 numbers.
    assert_eq!(files.len(), 192 + 64 + 26);
    assert!(files[128 + 22..192].iter().all(|&byte| byte == 0));
}

fn files_of_two_odd_weights() -> Vec<u8> {
    let mut b = Builder::new("odd", Stage::Subnet);
    for size in [11, 13] {
        let x = b.input(format!("x{size}"), TensorType::new(DType::F16, [size]));
        let mut weight = Weight::tensor(&format!("w{size}"), DType::F32, vec![Dim::fixed(size)]);
        weight.dtype = DType::F16;
        let weight = b.weight(weight).unwrap();
        let y = b.add(x, weight).unwrap();
        b.output(format!("y{size}"), y);
    }
    files(&write(&b.finish().unwrap(), MinOs::Ios16).package).remove(WEIGHTS).unwrap()
}

#[test]
fn a_package_without_weights_has_an_empty_weight_file() {
    let files = files(&write(&case("tanh", DType::F32), MinOs::Ios17).package);
    let mut header = [0; 64];
    header[4] = 2;
    assert_eq!(files[WEIGHTS], header);
}

#[test]
fn few_numbers_stand_in_the_program_and_more_in_the_file() {
    let model = written_model(&case("binary", DType::F16), MinOs::Ios17);
    let block = block(&model);
    for (name, in_file) in [("table", true), ("few", false)] {
        let constant = block.operations.iter().find(|operation| operation.outputs[0].name == name).unwrap();
        let content = constant.attributes["val"].value.as_ref().unwrap();
        assert_eq!(matches!(content, Content::BlobFileValue(_)), in_file, "{name}");
    }
}

#[test]
fn names_are_identifiers_made_of_scopes() {
    let model = written_model(&case("linear_and_gelu", DType::F16), MinOs::Ios17);
    let names: Vec<String> = block(&model)
        .operations
        .iter()
        .flat_map(|op| op.outputs.iter().map(|output| output.name.clone()))
        .collect();
    for name in
        ["ffn_0_weight", "case_linear_and_gelu_linear", "case_linear_and_gelu_gelu_mode_0", "output_1"]
    {
        assert!(names.iter().any(|found| found == name), "{name} in {names:?}");
    }
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
}

/// Every op has an answer, and a `No` has a reason that reads as a sentence part.
#[test]
fn reasons_are_given() {
    let x = TensorType::new(DType::F32, [2, 2]);
    let quick = Op::from(Gelu { form: GeluForm::Quick });
    let Native::No(reason) = CoreMl::default().native(&quick, &[&x]) else { panic!("quick gelu is native") };
    assert!(reason.len() > 20, "{reason}");
    assert_eq!(CoreMl::default().native(&Tanh {}.into(), &[&x]), Native::Yes);
}

#[test]
fn parts_are_named_as_apple_names_them() {
    for (part, name) in
        [("text_encoder", "TextEncoder"), ("transformer", "Transformer"), ("vae_decoder", "VaeDecoder")]
    {
        assert_eq!(CoreMl::default().artifact(part), format!("{name}.mlpackage"));
    }
}

fn refused(make: impl FnOnce(&mut Builder)) -> Error {
    let mut b = Builder::new("part", Stage::Subnet);
    b.set_scope("mid.0.attn");
    make(&mut b);
    legalize(&b.finish().unwrap(), &CoreMl::default()).unwrap_err()
}

fn assert_refused(words: &[&str], make: impl FnOnce(&mut Builder)) {
    let error = refused(make);
    assert_eq!(error.class(), Class::Limit, "{error}");
    assert!(error.help_text().is_some(), "{error}");
    let text = error.to_string();
    words.iter().for_each(|word| assert!(text.contains(word), "`{word}` in {text}"));
}

#[test]
fn limits_are_errors_that_say_where() {
    assert_refused(&["has 6 axes", "at mid.0.attn", "for target coreml"], |b| {
        let x = b.input("x", TensorType::new(DType::F32, [64]));
        let x = b.tanh(x).unwrap();
        let y = b.one(Reshape { shape: vec![2; 6] }, &[x]).unwrap();
        let y = b.tanh(y).unwrap();
        b.output("y", y);
    });
    assert_refused(&["without axes", "tensor x"], |b| {
        let x = b.input("x", TensorType::new(DType::F32, []));
        let y = b.tanh(x).unwrap();
        b.output("y", y);
    });
    assert_refused(&["4294967424 bytes", "at most 2147483648", "quantize"], |b| {
        let x = b.input("x", TensorType::new(DType::F32, [1, 32768]));
        let dims = vec![Dim::fixed(32768), Dim::fixed(32768)];
        let weight = b.weight(Weight::tensor("huge", DType::F32, dims)).unwrap();
        let y = b.linear(x, weight, None).unwrap();
        b.output("y", y);
    });
    assert_refused(&["`text.mask`", "name of an input or output"], |b| {
        let x = b.input("text.mask", TensorType::new(DType::F32, [2]));
        let y = b.tanh(x).unwrap();
        b.output("y", y);
    });
    assert_refused(&["both named x"], |b| {
        let x = b.input("x", TensorType::new(DType::F32, [2]));
        let y = b.tanh(x).unwrap();
        b.output("x", y);
    });
    assert_refused(&["2147483648 numbers on one axis", "at most 2147483647", "tensor x"], |b| {
        let x = b.input("x", TensorType::new(DType::F32, [1 << 31]));
        let y = b.tanh(x).unwrap();
        b.output("y", y);
    });
    assert_refused(&["convolution's weight must be constant", "at mid.0.attn"], |b| {
        let x = b.input("x", TensorType::new(DType::F32, [1, 2, 4, 4]));
        let weight = b.input("w", TensorType::new(DType::F32, [2, 2, 1, 1]));
        let conv = Conv2d { stride: 1, padding: 0, layout: Layout::Nchw };
        let y = b.one(conv, &[x, weight]).unwrap();
        b.output("y", y);
    });
    assert_refused(&["weight of type i32", "tensor ids"], |b| {
        let mut ids = Weight::tensor("ids", DType::I32, vec![Dim::fixed(4)]);
        ids.dtype = DType::I32;
        let ids = b.weight(ids).unwrap();
        let table =
            b.weight(Weight::tensor("table", DType::F32, vec![Dim::fixed(4), Dim::fixed(4)])).unwrap();
        let y = b.one(snapc_ir::ops::Embedding {}, &[ids, table]).unwrap();
        b.output("y", y);
    });
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let graph = case("linear", DType::F32);
    let backend = CoreMl::default();
    let legal = legalize(&graph, &backend).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::empty();
    let part = || Part::new(legal.clone(), &store, &[]);
    let error = backend.write(part(), &folder.path().join("a.mlpackage"), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("linear.bias"), "{error}");
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = backend.write(part(), &file.join("b.mlpackage"), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("cannot create"), "{error}");
}

/// What each rule makes of its case.
#[test]
fn rules_say_what_core_ml_takes() {
    let ops = |name: &str, dtype: DType| {
        let legal = legalize(&case(name, dtype), &CoreMl::default()).unwrap();
        legal.nodes().iter().map(|node| node.op.name()).collect::<Vec<_>>().join(" ")
    };
    for (name, dtype, expected) in [
        ("split_in_one", DType::F32, ""),
        ("concat_of_one", DType::F32, ""),
        ("slice_of_all", DType::F32, ""),
        ("linear_of_four_axes", DType::F32, "reshape linear reshape"),
        ("linear_computed", DType::F32, "reshape matmul add reshape linear add"),
        ("conv2d_computed_bias", DType::F32, "conv2d reshape add"),
        ("layer_norm_computed", DType::F32, "layer_norm mul add"),
        ("reduce_mean_last", DType::F16, "cast cast reduce_mean cast cast"),
        ("reduce_mean_last", DType::F32, "reduce_mean"),
        ("gelu_quick", DType::F32, "mul sigmoid mul"),
    ] {
        assert_eq!(ops(name, dtype), expected, "{name} {dtype}");
    }
    assert!(!ops("layer_norm_tiny_eps", DType::F16).contains("layer_norm"));
    assert!(ops("layer_norm_tiny_eps", DType::F32).contains("layer_norm"));
}
