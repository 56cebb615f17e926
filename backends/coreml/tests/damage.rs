//! Damaged packages are errors that name the file; nothing panics.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{cases, graph, write};
use coreml_proto::proto::mil_spec::argument::binding;
use coreml_proto::proto::mil_spec::dimension::Dimension as DimensionKind;
use coreml_proto::proto::mil_spec::tensor_value::{RepeatedBytes, RepeatedFloats, Value as Numbers};
use coreml_proto::proto::mil_spec::value::Value as Content;
use coreml_proto::proto::mil_spec::value::immediate_value::Value as Immediate;
use coreml_proto::proto::mil_spec::{
    Block, Function, Operation, Program, TensorType, TensorValue, Value, ValueType, value_type,
};
use coreml_proto::proto::{Model, model};
use prost::Message;
use snapc_backend::Backend;
use snapc_coreml::{CoreMl, MinOs};
use snapc_ir::{Class, DType, Error, Place};
use tempfile::TempDir;

struct Package {
    folder: TempDir,
}

impl Package {
    fn new(case: &str) -> Self {
        let cases = cases();
        let case = cases.iter().find(|one| one.name == case).unwrap();
        Package { folder: write(&graph(case, DType::F32), MinOs::Ios17).folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("case.mlpackage")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn model(&self) -> PathBuf {
        self.file("Data/com.apple.CoreML/model.mlmodel")
    }

    fn weights(&self) -> PathBuf {
        self.file("Data/com.apple.CoreML/weights/weight.bin")
    }

    fn read(&self) -> Result<(), Error> {
        CoreMl::default().read(&self.path()).map(|_| ())
    }

    fn assert_refused(&self, what: &str, words: &str) {
        let error = self.read().err().unwrap_or_else(|| panic!("{what} was not found"));
        assert_eq!(error.class(), Class::Input, "{what}: {error}");
        assert!(error.to_string().contains(words), "{what}: `{words}` in {error}");
        let names_a_file = error.places().iter().any(|place| matches!(place, Place::File(_)));
        assert!(names_a_file || error.message().contains("case.mlpackage"), "{what}: {error}");
        assert!(error.help_text().is_some(), "{what}: {error}");
    }

    fn edit(&self, change: impl FnOnce(&mut Model)) {
        let mut model = Model::decode(&fs::read(self.model()).unwrap()[..]).unwrap();
        change(&mut model);
        fs::write(self.model(), model.encode_to_vec()).unwrap();
    }

    fn edit_weights(&self, change: impl FnOnce(&mut Vec<u8>)) {
        edit_file(&self.weights(), change);
    }
}

fn edit_file(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn program(model: &mut Model) -> &mut Program {
    match model.r#type.as_mut().unwrap() {
        model::Type::MlProgram(program) => program,
        _ => panic!("no ML Program"),
    }
}

fn function(model: &mut Model) -> &mut Function {
    program(model).functions.get_mut("main").unwrap()
}

fn block(model: &mut Model) -> &mut Block {
    function(model).block_specializations.get_mut("CoreML7").unwrap()
}

fn operation<'a>(model: &'a mut Model, kind: &str) -> &'a mut Operation {
    block(model).operations.iter_mut().find(|operation| operation.r#type == kind).unwrap()
}

fn named<'a>(model: &'a mut Model, name: &str) -> &'a mut Operation {
    block(model).operations.iter_mut().find(|operation| operation.outputs[0].name.ends_with(name)).unwrap()
}

fn tensor(ty: &mut ValueType) -> &mut TensorType {
    match ty.r#type.as_mut().unwrap() {
        value_type::Type::TensorType(tensor) => tensor,
        _ => panic!("no tensor"),
    }
}

fn numbers(operation: &mut Operation) -> &mut Numbers {
    match operation.attributes.get_mut("val").unwrap().value.as_mut().unwrap() {
        Content::ImmediateValue(value) => match value.value.as_mut().unwrap() {
            Immediate::Tensor(TensorValue { value }) => value.as_mut().unwrap(),
            _ => panic!("no tensor"),
        },
        Content::BlobFileValue(_) => panic!("in the file"),
    }
}

fn set_ints(operation: &mut Operation, values: &[i32]) {
    match numbers(operation) {
        Numbers::Ints(ints) => ints.values = values.to_vec(),
        _ => panic!("no integers"),
    }
}

fn set_bools(operation: &mut Operation, values: &[bool]) {
    match numbers(operation) {
        Numbers::Bools(bools) => bools.values = values.to_vec(),
        _ => panic!("no truth values"),
    }
}

fn set_text(operation: &mut Operation, value: &str) {
    match numbers(operation) {
        Numbers::Strings(texts) => texts.values = vec![value.to_string()],
        _ => panic!("no text"),
    }
}

fn bind(operation: &mut Operation, parameter: &str, name: &str) {
    let argument = operation.inputs.get_mut(parameter).unwrap();
    argument.arguments[0].binding = Some(binding::Binding::Name(name.to_string()));
}

#[test]
fn a_whole_package_is_read() {
    Package::new("linear_and_gelu").read().unwrap();
}

#[test]
fn damaged_folders() {
    let refused = |what: &str, words: &str, damage: &dyn Fn(&Package)| {
        let package = Package::new("linear_and_gelu");
        damage(&package);
        package.assert_refused(what, words);
    };
    let remove = |path: PathBuf| fs::remove_file(path).unwrap();
    refused("no manifest", "Manifest.json", &|package| remove(package.file("Manifest.json")));
    refused("no model", "cannot find", &|package| remove(package.model()));
    refused("no weights", "cannot find", &|package| remove(package.weights()));
    refused("no folder of weights", "cannot find", &|package| {
        fs::remove_dir_all(package.weights().parent().unwrap()).unwrap();
    });
    let replaced = |from: &'static str, to: &'static str| {
        move |package: &Package| {
            let text = fs::read_to_string(package.file("Manifest.json")).unwrap();
            assert!(text.contains(from), "{from}");
            fs::write(package.file("Manifest.json"), text.replace(from, to)).unwrap();
        }
    };
    refused("another format", "expected 1.0.0", &replaced("1.0.0", "2.0.0"));
    refused("no manifest at all", "no package manifest", &replaced("{", "["));
    refused("an item without a name", "no package manifest", &replaced("\"name\": \"weights\",", ""));
    refused(
        "no root model",
        "its root model",
        &replaced("rootModelIdentifier\": \"", "rootModelIdentifier\": \"0"),
    );
    refused("a path upwards", "leads out", &replaced("com.apple.CoreML/weights", "../../../../etc"));
    refused("an absolute path", "leads out", &replaced("com.apple.CoreML/model.mlmodel", "/etc/passwd"));
    refused("an empty path", "leads out", &replaced("com.apple.CoreML/weights", ""));
    refused(
        "unlisted weights",
        "lists no weights",
        &replaced("com.apple.CoreML/weights", "com.apple.CoreML/model.mlmodel"),
    );
    refused(
        "a folder as model",
        "no file",
        &replaced("com.apple.CoreML/model.mlmodel", "com.apple.CoreML/weights"),
    );
    refused("a link outwards", "leads out", &|package| {
        let outside = package.folder.path().join("outside.bin");
        fs::rename(package.weights(), &outside).unwrap();
        std::os::unix::fs::symlink(outside, package.weights()).unwrap();
    });
    refused("garbage", "no Core ML model", &|package| fs::write(package.model(), b"no protobuf").unwrap());
    refused("an empty model", "specification version is 0", &|package| {
        fs::write(package.model(), b"").unwrap()
    });
}

#[test]
fn damaged_weight_files() {
    let refused = |what: &str, words: &str, damage: &dyn Fn(&mut Vec<u8>)| {
        let package = Package::new("linear_and_gelu");
        package.edit_weights(damage);
        package.assert_refused(what, words);
    };
    refused("empty", "cannot be read", &Vec::clear);
    refused("half a header", "cannot be read", &|bytes| bytes.truncate(32));
    refused("cut off in the last blob", "ends behind the file", &|bytes| bytes.truncate(bytes.len() - 1));
    refused("cut off in the first record", "metadata should be at 64", &|bytes| bytes.truncate(100));
    refused("longer", "blobs end at", &|bytes| bytes.push(0));
    refused("another version", "version", &|bytes| bytes[4] = 1);
    refused("a used header", "version", &|bytes| bytes[63] = 1);
    refused("too many blobs", "metadata should be at", &|bytes| bytes[0] += 1);
    refused("very many blobs", "metadata should be at", &|bytes| bytes[..4].fill(0xFF));
    refused("too few blobs", "blobs end at", &|bytes| bytes[0] -= 1);
    refused("no sentinel", "has no metadata", &|bytes| bytes[64] ^= 1);
    refused("another type", "of type 7", &|bytes| bytes[68] = 7);
    refused("the other type", "its blob has", &|bytes| bytes[68] = 1);
    refused("an empty blob", "has 0 bytes", &|bytes| bytes[72..80].fill(0));
    refused("a huge blob", "ends behind the file", &|bytes| bytes[72..80].fill(0xFC));
    refused("numbers elsewhere", "bytes from 192 on", &|bytes| bytes[80] = 192);
    refused("padding bits", "padding bits", &|bytes| bytes[88] = 1);
    refused("reserved bytes", "reserved bytes", &|bytes| bytes[127] = 1);
    let package = Package::new("concat");
    assert_eq!(fs::read(package.weights()).unwrap().len(), 64);
    package.edit_weights(|bytes| {
        bytes[0] = 1;
        let mut record = [0; 64];
        record[..4].copy_from_slice(&0xDEAD_BEEFu32.to_le_bytes());
        (record[4], record[8], record[16]) = (2, 4, 128);
        bytes.extend(record);
        bytes.extend([0; 4]);
    });
    package.assert_refused("an unused blob", "no constant names the blob at 64");
}

#[test]
fn damaged_models() {
    let refused = |what: &str, words: &str, damage: &dyn Fn(&mut Model)| {
        let package = Package::new("linear_and_gelu");
        package.edit(damage);
        package.assert_refused(what, words);
    };
    refused("another specification", "specification version is 6", &|m| m.specification_version = 6);
    refused("a newer specification", "its opset is `CoreML7`", &|m| m.specification_version = 9);
    refused("no program", "no ML Program", &|m| m.r#type = None);
    refused("no description", "no description", &|m| m.description = None);
    refused("no name", "snapc.graph", &|m| m.description.as_mut().unwrap().metadata = None);
    refused("two functions", "expected `main` alone", &|m| {
        let copy = function(m).clone();
        program(m).functions.insert("other".to_string(), copy);
    });
    refused("a function of another name", "expected `main` alone", &|m| {
        let only = program(m).functions.remove("main").unwrap();
        program(m).functions.insert("other".to_string(), only);
    });
    refused("two blocks", "other blocks", &|m| {
        let copy = block(m).clone();
        function(m).block_specializations.insert("CoreML8".to_string(), copy);
    });
    refused("another opset", "its opset is `CoreML8`", &|m| function(m).opset = "CoreML8".to_string());
    refused("an updatable model", "updatable", &|m| m.is_updatable = true);
    refused("a described function", "description has functions", &|m| {
        m.description.as_mut().unwrap().default_function_name = "main".to_string();
    });
    refused("an input renamed", "its description has the inputs", &|m| {
        m.description.as_mut().unwrap().input[0].name = "other".to_string();
    });
    refused("an output left out", "its description has the outputs", &|m| {
        m.description.as_mut().unwrap().output.clear();
    });
    refused("no outputs", "no output", &|m| block(m).outputs.clear());
    refused("an output that is not made", "made by no operation", &|m| {
        block(m).outputs[0] = "other".to_string()
    });
    refused("a constant that nothing uses", "no operation uses", &|m| {
        let mut constant = operation(m, "const").clone();
        constant.outputs[0].name = "spare".to_string();
        block(m).operations.insert(0, constant);
    });
}

#[test]
fn damaged_operations() {
    let refused = |what: &str, words: &str, damage: &dyn Fn(&mut Model)| {
        let package = Package::new("linear_and_gelu");
        package.edit(damage);
        package.assert_refused(what, words);
    };
    refused("an unknown operation", "does not write this", &|m| {
        operation(m, "gelu").r#type = "erf".to_string()
    });
    refused("an unknown parameter", "parameter other is none", &|m| {
        let argument = operation(m, "gelu").inputs["mode"].clone();
        operation(m, "gelu").inputs.insert("other".to_string(), argument);
    });
    refused("a missing parameter", "has no mode", &|m| {
        operation(m, "gelu").inputs.remove("mode");
    });
    refused("another mode", "SIGMOID_APPROXIMATION", &|m| {
        set_text(named(m, "_mode_0"), "SIGMOID_APPROXIMATION")
    });
    refused("an unknown name", "other is not made before", &|m| bind(operation(m, "gelu"), "x", "other"));
    refused("a weight that is computed", "its weight is not constant", &|m| {
        bind(operation(m, "linear"), "weight", "input_1")
    });
    refused("a text as a tensor", "STRING", &|m| {
        let name = named(m, "_mode_0").outputs[0].name.clone();
        bind(operation(m, "gelu"), "x", &name);
    });
    refused("a literal", "binds a literal", &|m| {
        let value = named(m, "_mode_0").attributes["val"].clone();
        let argument = operation(m, "gelu").inputs.get_mut("mode").unwrap();
        argument.arguments[0].binding = Some(binding::Binding::Value(value));
    });
    refused("one name twice", "made twice", &|m| {
        operation(m, "linear").outputs[0].name = "input_1".to_string()
    });
    refused("a name with a dot", "no identifier", &|m| {
        operation(m, "linear").outputs[0].name = "a.b".to_string()
    });
    refused("another declared type", "is declared as", &|m| {
        tensor(operation(m, "linear").outputs[0].r#type.as_mut().unwrap()).data_type = 10;
    });
    refused("another declared size", "is declared as", &|m| {
        let ty = tensor(operation(m, "linear").outputs[0].r#type.as_mut().unwrap());
        if let Some(DimensionKind::Constant(size)) = &mut ty.dimensions[1].dimension {
            size.size = 33;
        }
    });
    refused("a size of 0", "a size is", &|m| {
        tensor(operation(m, "linear").outputs[0].r#type.as_mut().unwrap()).dimensions[0].dimension = None;
    });
    refused("another rank", "its rank is 7", &|m| {
        tensor(operation(m, "linear").outputs[0].r#type.as_mut().unwrap()).rank = 7;
    });
    refused("two outputs", "outputs", &|m| {
        let output = operation(m, "linear").outputs[0].clone();
        operation(m, "linear").outputs.push(output);
    });
    refused("another attribute", "its attributes are", &|m| {
        let name = operation(m, "linear").attributes["name"].clone();
        operation(m, "linear").attributes.insert("other".to_string(), name);
    });
    refused("blocks", "has blocks", &|m| operation(m, "linear").blocks.push(Block::default()));
    refused("an offset between records", "no metadata at 128", &|m| {
        let value = named(m, "ffn_0_weight").attributes.get_mut("val").unwrap();
        if let Some(Content::BlobFileValue(file)) = &mut value.value {
            file.offset = 128;
        }
    });
    refused("another weight's record", "its blob has", &|m| {
        let value = named(m, "ffn_0_bias").attributes.get_mut("val").unwrap();
        if let Some(Content::BlobFileValue(file)) = &mut value.value {
            file.offset = 64;
        }
    });
    refused("another file", "it lies in", &|m| {
        let value = named(m, "ffn_0_weight").attributes.get_mut("val").unwrap();
        if let Some(Content::BlobFileValue(file)) = &mut value.value {
            file.file_name = "@model_path/../../other.bin".to_string();
        }
    });
    refused("a value of another type", "another type than its output", &|m| {
        let value = named(m, "ffn_0_bias").attributes.get_mut("val").unwrap();
        tensor(value.r#type.as_mut().unwrap()).data_type = 10;
    });
}

fn attribute<'a>(operation: &'a mut Operation, name: &str) -> &'a mut Value {
    operation.attributes.get_mut(name).unwrap()
}

fn set_size(value: &mut Value, axis: usize, to: u64) {
    let ty = tensor(value.r#type.as_mut().unwrap());
    if let Some(DimensionKind::Constant(size)) = &mut ty.dimensions[axis].dimension {
        size.size = to;
    }
}

fn set_bytes(value: &mut Value, bytes: &[u8]) {
    if let Some(Content::ImmediateValue(value)) = &mut value.value
        && let Some(Immediate::Tensor(TensorValue { value })) = &mut value.value
    {
        *value = Some(Numbers::Bytes(RepeatedBytes { values: bytes.to_vec() }));
    }
}

#[test]
fn damaged_codes() {
    let refused = |case: &str, what: &str, words: &str, damage: &dyn Fn(&mut Operation)| {
        let package = Package::new(case);
        package.edit(|model| damage(named(model, "weight")));
        package.assert_refused(what, words);
    };
    let rows = |what: &str, words: &str, damage: &dyn Fn(&mut Operation)| {
        refused("encoded_rows", what, words, damage);
    };
    rows("no scale", "it has no scale", &|op| drop(op.attributes.remove("scale")));
    rows("one scale less", "its type 15", &|op| set_size(attribute(op, "scale"), 0, 15));
    rows("one code less", "its type 90", &|op| set_size(attribute(op, "quantized_data"), 0, 15));
    rows("another axis", "for an axis of 6", &|op| {
        *attribute(op, "axis") = attribute(op, "axis").clone();
        if let Some(Content::ImmediateValue(value)) = &mut attribute(op, "axis").value
            && let Some(Immediate::Tensor(TensorValue { value: Some(Numbers::Ints(ints)) })) =
                &mut value.value
        {
            ints.values = vec![1];
        }
    });
    rows("scales as zero points", "numbers of", &|op| {
        *attribute(op, "zero_point") = attribute(op, "scale").clone();
        tensor(attribute(op, "zero_point").r#type.as_mut().unwrap()).data_type = 21;
    });
    rows("another parameter", "it has a parameter other", &|op| {
        let axis = attribute(op, "axis").clone();
        op.attributes.insert("other".to_string(), axis);
    });
    rows("another operation", "does not write it", &|op| op.r#type = "constexpr_cast".to_string());
    rows("another declared type", "is declared as", &|op| {
        tensor(op.outputs[0].r#type.as_mut().unwrap()).data_type = 10;
    });
    let palette = |what: &str, words: &str, damage: &dyn Fn(&mut Operation)| {
        refused("encoded_palette", what, words, damage);
    };
    palette("half a size", "no list of uint32", &|op| {
        set_bytes(attribute(op, "shape"), &[16, 0, 0, 0, 6, 0])
    });
    palette("other sizes", "are not 80 indices", &|op| {
        set_bytes(attribute(op, "shape"), &[16, 0, 0, 0, 5, 0, 0, 0]);
    });
    palette("huge sizes", "too large", &|op| set_bytes(attribute(op, "shape"), &[0xFF; 8]));
    palette("no sizes", "too large", &|op| set_bytes(attribute(op, "shape"), &[0; 8]));
    palette("a table of 15", "its type 15", &|op| set_size(attribute(op, "lut"), 0, 15));
}

#[test]
fn damaged_bytes_of_codes() {
    let refused = |what: &str, words: &str, damage: &dyn Fn(&mut Vec<u8>)| {
        let package = Package::new("encoded_rows");
        package.edit_weights(damage);
        package.assert_refused(what, words);
    };
    // 96 codes at 128, scales at 320 behind their record at 256, zero points behind theirs at 384.
    refused("unsigned codes", "its type 96 of INT8", &|bytes| bytes[68] = 3);
    refused("codes of 4 bits", "its type 96", &|bytes| bytes[68] = 8);
    refused("an endless scale", "not finite", &|bytes| {
        bytes[320..324].copy_from_slice(&f32::INFINITY.to_le_bytes())
    });
    refused("a zero point", "not one zero a scale", &|bytes| *bytes.last_mut().unwrap() = 1);
}

/// One parameter of each op with another value: each means another function, so each is refused.
#[test]
fn other_parameters() {
    let refused = |case: &str, constant: &str, words: &str, damage: &dyn Fn(&mut Operation)| {
        let package = Package::new(case);
        package.edit(|model| damage(named(model, constant)));
        package.assert_refused(&format!("{case}, {constant}"), words);
    };
    refused("rsqrt", "epsilon_0", "its epsilon is", &|op| {
        *numbers(op) = Numbers::Floats(RepeatedFloats { values: vec![1e-5] });
    });
    refused("rsqrt", "epsilon_0", "field of another type", &|op| {
        *numbers(op) = Numbers::Bytes(RepeatedBytes { values: vec![0, 0] });
    });
    refused("rsqrt", "epsilon_0", "has 2 numbers", &|op| {
        *numbers(op) = Numbers::Floats(RepeatedFloats { values: vec![0.0, 0.0] });
    });
    refused("softmax", "axis_0", "its axis is 1", &|op| set_ints(op, &[1]));
    refused("softmax", "axis_0", "integers from 0 on", &|op| set_ints(op, &[-1]));
    refused("reduce_mean_last", "keep_dims_0", "keep_dims is not true", &|op| set_bools(op, &[false]));
    refused("layer_norm", "axes_0", "over the last axis", &|op| set_ints(op, &[1]));
    refused("matmul", "transpose_x_0", "transpose_x is not false", &|op| set_bools(op, &[true]));
    refused("embedding", "axis_0", "its axis is 1", &|op| set_ints(op, &[1]));
    refused("embedding", "validate_indices_0", "validate_indices is not false", &|op| set_bools(op, &[true]));
    refused("conv2d", "strides_0", "strides differ", &|op| set_ints(op, &[1, 2]));
    refused("conv2d", "dilations_0", "dilated", &|op| set_ints(op, &[2, 2]));
    refused("conv2d", "pad_0", "its padding is", &|op| set_ints(op, &[1, 1, 1, 0]));
    refused("conv2d", "pad_type_0", "its padding is", &|op| set_text(op, "same"));
    refused("conv2d", "pad_type_0", "its padding is", &|op| set_text(op, "valid"));
    refused("conv2d", "groups_0", "do not fit", &|op| set_ints(op, &[2]));
    refused("conv2d", "strides_0", "stride 0", &|op| set_ints(op, &[0, 0]));
    refused("split", "num_splits_0", "num_splits is 2", &|op| set_ints(op, &[2]));
    refused("split", "axis_0", "cannot be cut", &|op| set_ints(op, &[0]));
    refused("concat", "interleave_0", "interleave is not false", &|op| set_bools(op, &[true]));
    refused("concat", "axis_0", "does not continue", &|op| set_ints(op, &[0]));
    refused("transpose", "perm_0", "does not permute", &|op| set_ints(op, &[0, 0, 1]));
    refused("reshape", "shape_0", "has a 0", &|op| set_ints(op, &[0, 1, 3, 6]));
    refused("reshape", "shape_0", "cannot become", &|op| set_ints(op, &[4, 1, 3, 7]));
    refused("slice_middle", "stride_0", "has steps", &|op| set_ints(op, &[1, 2, 1]));
    refused("slice_middle", "squeeze_mask_0", "drops axes", &|op| set_bools(op, &[false, true, false]));
    refused("slice_middle", "begin_mask_0", "do not fit x", &|op| set_bools(op, &[true; 3]));
    refused("slice_middle", "end_0", "no 3 numbers", &|op| set_ints(op, &[4, 4, 6]));
    refused("slice_middle", "end_0", "no 0 numbers", &|op| set_ints(op, &[4, 0, 6]));
    refused("upsample_nearest", "scale_factor_width_0", "scale_factor_width is 3", &|op| set_ints(op, &[3]));
    refused("cast", "dtype_0", "casts to int32", &|op| set_text(op, "int32"));
}

/// Any prefix of the model, and any flipped bit of the model or the metadata, is read or refused.
#[test]
fn nothing_panics() {
    for case in [
        "encoded_rows",
        "encoded_palette",
        "conv2d",
        "outputs",
        "layer_norm_weight_bias",
        "split",
        "slice_middle",
    ] {
        let package = Package::new(case);
        let model = fs::read(package.model()).unwrap();
        for length in (0..model.len()).step_by(7) {
            fs::write(package.model(), &model[..length]).unwrap();
            assert!(package.read().is_err(), "{case}: {length} of {} bytes", model.len());
        }
        flip_bits(&package, &package.model(), &model, model.len(), 1500);
        let weights = fs::read(package.weights()).unwrap();
        flip_bits(&package, &package.weights(), &weights, weights.len().min(256), 500);
    }
}

fn flip_bits(package: &Package, path: &Path, bytes: &[u8], length: usize, times: usize) {
    let mut state = 12345u32;
    let mut next = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    for _ in 0..times {
        let mut damaged = bytes.to_vec();
        for _ in 0..=next(3) {
            damaged[next(length)] ^= 1 << next(8);
        }
        fs::write(path, damaged).unwrap();
        if let Err(error) = package.read() {
            assert_ne!(error.class(), Class::Internal, "{error}");
        }
    }
    fs::write(path, bytes).unwrap();
    package.read().unwrap();
}
