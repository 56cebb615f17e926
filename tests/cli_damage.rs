//! Damaged inputs: each gives one error that names the file and the cause, the exit code of its class, and leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::panic)]

mod command;

use std::path::Path;

use serde_json::{Value, json};
use snapc_tests::{copy_folder, files};

use command::{snapc, succeed, workplace};

/// What becomes of one file.
enum Damage {
    Remove,
    Write(Vec<u8>),
    /// A text that is there becomes another.
    Text(&'static str, &'static str),
    /// A field, by its JSON pointer, of an object that is there.
    Field(&'static str, Value),
    /// A text of a safetensors header; the length of the header follows.
    Header(&'static str, &'static str),
    /// The length that a safetensors file says its header has.
    HeaderLength(u64),
    /// The first number of a tensor.
    Number(&'static str, f32),
    /// So many bytes are left.
    Cut(usize),
    /// The byte there is inverted.
    Flip(usize),
    /// Another file is put beside it.
    Beside(&'static str),
}
use Damage::{Beside, Cut, Field, Flip, Header, HeaderLength, Number, Remove, Text, Write};

/// A damage, the command, and what must come of it.
struct Row {
    file: &'static str,
    damage: Damage,
    command: Words,
    code: i32,
    /// Beside the name of the file.
    says: &'static str,
}

/// The command of a row.
#[derive(Clone, Copy)]
enum Words {
    /// All parts.
    Compile,
    /// One part.
    Part(&'static str),
    /// More words of a compile.
    With(&'static [&'static str]),
    Verify(&'static str),
    /// A compiled folder.
    Run(&'static str),
    /// Any words.
    These(&'static [&'static str]),
}
use Words::{Compile, Part, Run, These, Verify, With};

impl Words {
    fn list(self) -> Vec<&'static str> {
        let compile = ["compile", "model", "-s", "tiny", "-t", "onnx", "-o", "out"];
        match self {
            Compile => compile.to_vec(),
            Part(part) => [&compile[..], &["--part", part]].concat(),
            With(more) => [&compile[..], more].concat(),
            Verify(folder) => vec!["verify", folder, "--pipeline", "model", "--prompts", "1"],
            Run(folder) => vec!["run", folder, "--prompt", "a", "-o", "out"],
            These(words) => words.to_vec(),
        }
    }
}

fn row(file: &'static str, damage: Damage, command: Words, code: i32, says: &'static str) -> Row {
    Row { file, damage, command, code, says }
}

const TRANSFORMER: &str = "model/transformer/config.json";
const WEIGHTS: &str = "model/transformer/diffusion_pytorch_model.safetensors";
const VAE: &str = "model/vae/config.json";
const VAE_WEIGHTS: &str = "model/vae/diffusion_pytorch_model.safetensors";
const TEXT: &str = "model/text_encoder/config.json";
const TEXT_WEIGHTS: &str = "model/text_encoder/model.safetensors";
const SCHEDULER: &str = "model/scheduler/scheduler_config.json";
const TOKENIZER: &str = "model/tokenizer/tokenizer.json";
const INDEX: &str = "model/transformer/diffusion_pytorch_model.safetensors.index.json";
const HUGE: u64 = u64::MAX - 1;

fn configs() -> Vec<Row> {
    let nested = format!("{{\"a\": {}", "[".repeat(100_000)).into_bytes();
    vec![
        row("model/model_index.json", Remove, Compile, 3, "cannot read"),
        row("model/model_index.json", Write(b"[]".to_vec()), Compile, 3, "no JSON object"),
        row("model/model_index.json", Write(vec![0xff, 0xfe, 0]), Compile, 3, "UTF-8"),
        row("model/model_index.json", Field("/_class_name", json!(7)), Compile, 3, "`_class_name`"),
        row(TRANSFORMER, Write(Vec::new()), Compile, 3, "no JSON object"),
        row(TRANSFORMER, Write(nested), Compile, 3, "recursion limit"),
        row(TRANSFORMER, Field("/num_mid_blocks", json!(1_000_000_000)), Compile, 3, "passes 10000"),
        row(TRANSFORMER, Field("/num_mid_blocks", json!(9000)), Compile, 3, "missing"),
        row(TRANSFORMER, Field("/width", json!(HUGE)), Compile, 3, "`width`"),
        row(TRANSFORMER, Field("/width", json!(-64)), Compile, 3, "-64"),
        row(TRANSFORMER, Field("/head_dim", json!(0)), Compile, 3, "`head_dim`"),
        row(TRANSFORMER, Field("/head_dim", json!(1 << 20)), Compile, 3, "width"),
        row(TRANSFORMER, Field("/patch_size", json!(HUGE)), Compile, 3, "`patch_size`"),
        row(TRANSFORMER, Field("/patch_size", json!(1 << 20)), Compile, 3, "latent"),
        row(TRANSFORMER, Field("/sample_size", json!(HUGE)), Compile, 3, "`sample_size`"),
        row(TRANSFORMER, Field("/sample_size", json!([16])), Compile, 3, "SampleSize"),
        row(TRANSFORMER, Field("/assa_block", json!(1 << 20)), Compile, 3, "assa_block"),
        row(TRANSFORMER, Field("/ffn_ratio", json!(1 << 20)), Compile, 3, "ffn"),
        row(TRANSFORMER, Field("/rope_theta", json!(0)), Compile, 3, "`rope_theta`"),
        row(TRANSFORMER, Text("1e-06", "1e999"), Compile, 3, "number out of range"),
        row(TRANSFORMER, Field("/subnets", json!({})), Compile, 3, "`subnets` is empty"),
        row(TRANSFORMER, Field("/subnets/tiny/width", json!(HUGE)), Compile, 3, "subnets.tiny.width"),
        row(TRANSFORMER, Field("/max_text_tokens", json!(1 << 20)), Compile, 3, "tokens"),
        row(TEXT, Field("/num_hidden_layers", json!(1_000_000_000)), Compile, 3, "`num_hidden_layers`"),
        row(TEXT, Field("/vocab_size", json!(HUGE)), Compile, 3, "`vocab_size`"),
        row(TEXT, Field("/hidden_act", json!("swish")), Compile, 3, "`hidden_act`"),
        row(TEXT, Field("/num_attention_heads", json!(5)), Compile, 3, "`hidden_size`"),
        row(TEXT, Field("/architectures", json!([])), Compile, 3, "`architectures`"),
        row(VAE, Field("/latent_channels", json!(5)), Compile, 3, "latent_channels"),
        row(VAE, Field("/scaling_factor", json!(0)), Compile, 3, "`scaling_factor`"),
        row(VAE, Field("/upsampling_scaling_factor", json!(HUGE)), Compile, 3, "upsampling_scaling_factor"),
        row(VAE, Field("/num_decoder_blocks", json!([1, HUGE, 1])), Compile, 3, "num_decoder_blocks"),
        row(VAE, Field("/decoder_block_out_channels", json!([24, 0, 24])), Compile, 3, "out_channels"),
        row(SCHEDULER, Remove, Compile, 3, "cannot read"),
        row(SCHEDULER, Write(b"{".to_vec()), Compile, 3, "no JSON object"),
        row(SCHEDULER, Field("/_class_name", json!("DDIMScheduler")), Compile, 3, "DDIMScheduler"),
        row(SCHEDULER, Field("/distilled_sigmas", json!([])), Compile, 3, "distilled_sigmas"),
        row(SCHEDULER, Field("/distilled_sigmas", json!([1.0, 1e300, 0.0])), Compile, 3, "distilled_sigmas"),
        row(SCHEDULER, Field("/distilled_sigmas", json!([0.5, 0.9, 0.0])), Compile, 3, "distilled_sigmas"),
        row(SCHEDULER, Field("/num_train_timesteps", json!(0)), Compile, 3, "num_train_timesteps"),
        row(SCHEDULER, Field("/shift", json!(-3.0)), Compile, 3, "shift"),
        row(SCHEDULER, Field("/time_shift_type", json!("cubic")), Compile, 3, "time_shift_type"),
    ]
}

fn weights() -> Vec<Row> {
    let (q, other) = (
        "\"down.0.self_attn.q.weight\":{\"dtype\":\"F16\",\"shape\":[128,128]",
        "\"down.0.self_attn.q.weight\":{\"dtype\":\"F16\",\"shape\":[256,64]",
    );
    let index = |text: &str| Write(text.as_bytes().to_vec());
    vec![
        row(WEIGHTS, Remove, Compile, 3, "cannot open"),
        row(WEIGHTS, Write(Vec::new()), Compile, 3, "too few"),
        row(WEIGHTS, Cut(5), Compile, 3, "too few"),
        row(WEIGHTS, Cut(1000), Compile, 3, "header"),
        row(WEIGHTS, Cut(100_000), Compile, 3, "the tensors end at"),
        row(WEIGHTS, HeaderLength(u64::MAX), Compile, 3, "header"),
        row(WEIGHTS, HeaderLength(99_999_999), Compile, 3, "header"),
        row(WEIGHTS, HeaderLength(2), Compile, 3, "damaged"),
        row(WEIGHTS, Header("[128,128]", "[1000000000000000000,128]"), Compile, 3, "damaged"),
        row(WEIGHTS, Header("[128,128]", "[4294967296,4294967296,4294967296]"), Compile, 3, "damaged"),
        row(WEIGHTS, Header("\"data_offsets\":[0,", "\"data_offsets\":[64,"), Compile, 3, "damaged"),
        row(WEIGHTS, Header("\"F16\"", "\"F17\""), Compile, 3, "damaged"),
        row(WEIGHTS, Header(q, other), Compile, 3, "q.weight"),
        row(WEIGHTS, Header("F16\",\"shape\":[128,128]", "I16\",\"shape\":[128,128]"), Compile, 3, "I16"),
        row(WEIGHTS, Header("up.1.mod_table", "up.9.mod_table"), Compile, 3, "up.1.mod_table"),
        row(WEIGHTS, Number("down.0.ffn.0.weight", f32::NAN), Part("transformer"), 3, "down.0.ffn.0.weight"),
        row(WEIGHTS, Number("down.0.ffn.0.weight", f32::INFINITY), With(&["--quantize", "int8"]), 3, "ffn"),
        row(WEIGHTS, Number("down.0.self_attn.q_norm", f32::NAN), Part("transformer"), 3, "q_norm"),
        row(WEIGHTS, Number("time_embed.0.weight", f32::NAN), Part("transformer"), 3, "time_embed.0.weight"),
        row(WEIGHTS, Number("time_mod.bias", f32::INFINITY), Part("transformer"), 3, "time_mod.bias"),
        row(TEXT_WEIGHTS, Number(EMBEDDING, f32::NAN), Part("text_encoder"), 3, EMBEDDING),
        row(
            VAE_WEIGHTS,
            Number("decoder.layers.0.bias", f32::NEG_INFINITY),
            Part("vae_decoder"),
            3,
            "layers.0.bias",
        ),
        row(VAE_WEIGHTS, Number("decoder.layers.0.weight", 1e6), OFF, 4, "does not fit f16"),
        row(
            VAE_WEIGHTS,
            Number("decoder.layers.0.weight", f32::NAN),
            These(&["run", "model", "-s", "tiny", "--prompt", "a", "-o", "out"]),
            3,
            "decoder.layers.0.weight",
        ),
        row(
            INDEX,
            index("{\"weight_map\": {\"a\": \"../../../etc/passwd\"}}"),
            Compile,
            3,
            "no file beside it",
        ),
        row(INDEX, index("{\"weight_map\": {\"a\": \"/etc/passwd\"}}"), Compile, 3, "no file beside it"),
        row(INDEX, index("{\"weight_map\": {\"a\": \"none.safetensors\"}}"), Compile, 3, "none.safetensors"),
        row(INDEX, index("{\"weight_map\": 3}"), Compile, 3, "the index is not"),
        row(INDEX, index("{\"weight_map\": {}}"), Compile, 3, "names no tensor"),
    ]
}

const OFF: Words = These(&[
    "compile",
    "model",
    "-s",
    "tiny",
    "-t",
    "coreml",
    "--part",
    "vae_decoder",
    "--ranges",
    "off",
    "-o",
    "out",
]);
const EMBEDDING: &str = "text_model.embeddings.token_embedding.weight";

fn texts() -> Vec<Row> {
    vec![
        row(TOKENIZER, Remove, Compile, 3, "cannot"),
        row(TOKENIZER, Write(b"{}".to_vec()), Compile, 3, "tokenizer"),
        row(TOKENIZER, Cut(9000), Compile, 3, "tokenizer"),
        row(TOKENIZER, Text("<|endoftext|>", "<|end|>"), Compile, 3, "padding token"),
        row(TOKENIZER, Text("|>\": 609", "|>\": 4294967295"), Compile, 3, "4294967295"),
        row(TOKENIZER, Text("\"id\": 609", "\"id\": 99999999999"), Compile, 3, "tokenizer"),
        row("model/tokenizer/tokenizer_config.json", Text("right", "left"), Compile, 3, "padding_side"),
        row("model/tokenizer/tokenizer_config.json", Write(b"?".to_vec()), Compile, 3, "no JSON object"),
        row("snapc.toml", Write(b"pipeline = \n".to_vec()), These(&["compile"]), 3, "no snapc.toml"),
        row("snapc.toml", Write(b"colour = 3\n".to_vec()), These(&["compile"]), 3, "colour"),
        row("snapc.toml", Write(vec![0xff]), These(&["compile"]), 3, "UTF-8"),
        row("snapc.toml", Write(b"precision = \"f8\"\n".to_vec()), Compile, 3, "f8"),
        row("snapc.toml", Write(b"targets = [\"onyx\"]\n".to_vec()), These(&["compile", "model"]), 3, "onyx"),
        row(
            "made.recipe",
            Write(b"[transformer]\n\"no.such\" = \"int8\"\n".to_vec()),
            With(&["--recipe", "made.recipe"]),
            3,
            "no.such",
        ),
        row("made.recipe", Write(b"[x]\n".to_vec()), With(&["--recipe", "made.recipe"]), 3, "x"),
        row(
            "a.calibration",
            Write(b"nothing".to_vec()),
            With(&["--quantize", "int4", "--calibration", "a.calibration"]),
            3,
            "",
        ),
    ]
}

const ONNX: &str = "made/onnx/tiny";
const COREML: &str = "made/coreml/tiny";
const TFLITE: &str = "made/tflite/tiny";

fn written() -> Vec<Row> {
    let manifest = "made/onnx/tiny/manifest.json";
    let onnx = "made/onnx/tiny/transformer/model.onnx";
    let data = "made/onnx/tiny/vae_decoder/model.onnx_data";
    let mil = "made/coreml/tiny/TextEncoder.mlpackage/Data/com.apple.CoreML/model.mlmodel";
    let bin = "made/coreml/tiny/Transformer.mlpackage/Data/com.apple.CoreML/weights/weight.bin";
    let lite = "made/tflite/tiny/transformer.tflite";
    vec![
        row(manifest, Remove, Verify(ONNX), 3, "no manifest.json"),
        row(manifest, Cut(300), Verify(ONNX), 3, "no manifest of snapc"),
        row(manifest, Field("/schema", json!(1)), Verify(ONNX), 3, "schema"),
        row(manifest, Field("/options/target", json!("metal")), Verify(ONNX), 3, "metal"),
        row(manifest, Field("/options/bake", json!("all")), Verify(ONNX), 3, "all"),
        row(
            manifest,
            Field("/options/size", json!([HUGE, 64])),
            Verify(ONNX),
            3,
            "18446744073709551614 x 64 pixels",
        ),
        row(manifest, Field("/options/subnet", json!("huge")), Verify(ONNX), 3, "huge"),
        row(
            manifest,
            Field("/parts/0/artifact", json!("../../model")),
            Verify(ONNX),
            3,
            "no name in the folder",
        ),
        row(manifest, Field("/files", json!([])), Verify(ONNX), 1, "not listed"),
        row(manifest, Field("/files/0/sha256", json!("é")), Verify(ONNX), 1, "altered"),
        row(manifest, Field("/schedule/sigmas", json!([1.0])), Run(ONNX), 3, "sigmas"),
        row(manifest, Field("/tokenizer/tokens", json!(7)), Run(ONNX), 3, "tokens"),
        row(manifest, Field("/tokenizer/tokens", json!(HUGE)), Run(ONNX), 3, "tokens"),
        row(onnx, Flip(200), Verify(ONNX), 1, "altered"),
        row(onnx, Remove, Verify(ONNX), 1, "missing"),
        row(onnx, Beside("strange.bin"), Verify(ONNX), 1, "strange.bin"),
        row(onnx, Cut(5000), Run(ONNX), 3, ""),
        row(onnx, Write(Vec::new()), Run(ONNX), 3, "IR version"),
        row(data, Cut(100), Run(ONNX), 3, "behind the end"),
        row(data, Remove, Run(ONNX), 3, "cannot open"),
        row(mil, Flip(40), Verify(COREML), 1, "altered"),
        row(mil, Cut(2000), Run(COREML), 3, ""),
        row(bin, Cut(70), Run(COREML), 3, ""),
        row("made/coreml/tiny/VaeDecoder.mlpackage/Manifest.json", Write(b"{}".to_vec()), Run(COREML), 3, ""),
        row(lite, Cut(4000), Verify(TFLITE), 1, "altered"),
        row(lite, Cut(4000), Run(TFLITE), 3, ""),
        row(lite, Write(vec![0xff; 64]), Run(TFLITE), 3, ""),
    ]
}

fn damage(path: &Path, damage: &Damage) {
    let bytes = || std::fs::read(path).unwrap();
    let header = || u64::from_le_bytes(bytes()[..8].try_into().unwrap()) as usize;
    let whole = match damage {
        Remove => return std::fs::remove_file(path).unwrap(),
        Beside(name) => return std::fs::write(path.with_file_name(name), b"?").unwrap(),
        Write(bytes) => {
            // What is sharded has no whole file.
            if path.extension().is_some_and(|end| end == "json") {
                let _ = std::fs::remove_file(path.with_extension("").with_extension(""));
            }
            bytes.clone()
        }
        Text(from, to) => {
            let text = String::from_utf8(bytes()).unwrap();
            assert!(text.contains(from), "{from}");
            text.replace(from, to).into_bytes()
        }
        Field(pointer, value) => {
            let mut all: Value = serde_json::from_slice(&bytes()).unwrap();
            *all.pointer_mut(pointer).unwrap() = value.clone();
            all.to_string().into_bytes()
        }
        Header(from, to) => {
            let (all, end) = (bytes(), 8 + header());
            let text = std::str::from_utf8(&all[8..end]).unwrap();
            assert!(text.contains(from), "{from}");
            let text = text.replacen(from, to, 1);
            [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &all[end..]].concat()
        }
        HeaderLength(length) => [&length.to_le_bytes(), &bytes()[8..]].concat(),
        Number(tensor, value) => {
            let (mut all, start) = (bytes(), 8 + header());
            let header: Value = serde_json::from_slice(&all[8..start]).unwrap();
            let first = start + header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
            if header[tensor]["dtype"] == "F16" {
                all[first..first + 2].copy_from_slice(&half::f16::from_f32(*value).to_le_bytes());
            } else {
                all[first..first + 4].copy_from_slice(&value.to_le_bytes());
            }
            all
        }
        Cut(length) => bytes()[..*length].to_vec(),
        Flip(at) => {
            let mut all = bytes();
            all[*at] ^= 0xff;
            all
        }
    };
    std::fs::write(path, whole).unwrap();
}

/// What is wrong with how a row ends, if anything.
fn fault(row: &Row, made: &Path) -> Option<String> {
    let place = workplace();
    let root = place.path();
    if matches!(row.command, Verify(_) | Run(_)) {
        copy_folder(made, &root.join("made"));
    }
    damage(&root.join(row.file), &row.damage);
    let before = files(root);
    let output = snapc(root, &row.command.list());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let name = match &row.damage {
        Beside(name) => name,
        _ => Path::new(row.file).file_name().unwrap().to_str().unwrap(),
    };
    // A damaged index or package may be seen first in what it names.
    let folder = Path::new(row.file).parent().unwrap().to_str().unwrap();
    let wrong = [
        (output.status.code() != Some(row.code), "exit code"),
        (said.lines().filter(|line| line.starts_with("error: ")).count() != 1, "not one error"),
        (said.contains("panicked") || said.contains("a bug in snapc"), "a bug"),
        (!said.contains(name) && (folder.is_empty() || !said.contains(folder)), "names no file"),
        (!said.contains(row.says), "does not say why"),
        (files(root) != before, "something was written"),
    ];
    let wrong: Vec<&str> = wrong.iter().filter(|(is, _)| *is).map(|(_, what)| *what).collect();
    let code = output.status.code();
    (!wrong.is_empty()).then(|| format!("{}, {:?}: {wrong:?}, {code:?}\n{said}", row.file, row.says))
}

/// A rank that a narrow layer has not is no damage: it has no product beside it, and `--explain` says so.
#[test]
fn a_rank_that_a_layer_has_not_is_left_out() {
    let place = workplace();
    let words = ["compile", "model", "-s", "full", "-t", "onnx", "--part", "transformer", "--explain"];
    let quantize = ["--quantize", "int4", "--rank", "16", "--accuracy", "off"];
    let said = succeed(place.path(), &[&words[..], &quantize].concat());
    assert!(said.contains("self_attn.gate.weight): no product beside it"), "{said}");
}

#[test]
fn damage_is_named_and_leaves_nothing() {
    let place = workplace();
    succeed(place.path(), &["compile", "model", "-s", "tiny", "-t", "all", "-o", "made"]);
    let rows: Vec<Row> = [configs(), weights(), texts(), written()].into_iter().flatten().collect();
    assert!(rows.len() >= 60, "{}", rows.len());
    let made = place.path().join("made");
    let faults: Vec<String> = rows.iter().filter_map(|row| fault(row, &made)).collect();
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), rows.len(), faults.join("\n"));
}
