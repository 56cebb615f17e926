//! What generated sources must know of a tokenizer that is no vocabulary, and which tokenizers they have.

use std::path::Path;

use serde_json::Value;
use snapc_frontends::tokenizer::Tokenizer;
use snapc_ir::{Error, Place, Result};

/// How CLIP's tokenizer cuts a text into words; the generated sources have it as code.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// A tokenizer of byte-level pairs, as CLIP has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Tokens of a text, padded.
    pub tokens: usize,
    /// Ids before each text.
    pub before: Vec<u32>,
    /// Ids behind each text.
    pub after: Vec<u32>,
    /// The padding id.
    pub padding: u32,
    /// The id of what is not in the vocabulary.
    pub unknown: Option<u32>,
    /// What ends the last symbol of a word.
    pub suffix: String,
    /// Whether characters are composed (NFC).
    pub composes: bool,
    /// Whether letters are put into lower case.
    pub lowercases: bool,
    /// Tokens that stand for themselves wherever a text has them.
    pub added: Vec<(String, u32)>,
}

impl Settings {
    /// Reads the `tokenizer/` folder of a pipeline.
    ///
    /// # Errors
    /// If it is damaged, or has a step that the generated sources have not.
    pub fn read(pipeline: &Path, tokens: usize) -> Result<Self> {
        let path = pipeline.join("tokenizer/tokenizer.json");
        let padding = Tokenizer::open(pipeline, tokens)?.padding_id();
        let bytes = std::fs::read(&path).map_err(|error| Error::io("read", &path, &error))?;
        let json: Value = serde_json::from_slice(&bytes).map_err(|error| {
            Error::input(format!("this is no JSON: {error}")).at(Place::File(path.clone()))
        })?;
        settings(&json, tokens, padding).map_err(|what| {
            Error::input(format!("the Swift and Kotlin of a bundle have no tokenizer with {what}"))
                .at(Place::File(path))
                .help("they have CLIP's kind (byte-level BPE); `--platform desktop` takes any, and `snapc compile` writes models without sources")
        })
    }
}

/// What a JSON is where an error names it.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    let cut: String = text.chars().take(80).collect();
    if cut.len() < text.len() { format!("{cut}..") } else { cut }
}

fn settings(json: &Value, tokens: usize, padding: u32) -> std::result::Result<Settings, String> {
    let model = &json["model"];
    let plain = |field: &str, allowed: &[Value]| {
        let found = &model[field];
        match found.is_null() || allowed.contains(found) {
            true => Ok(()),
            false => Err(format!("the model's `{field}` {}", shown(found))),
        }
    };
    if model["type"] != "BPE" {
        return Err(format!("the model {}", shown(&model["type"])));
    }
    plain("dropout", &[])?;
    plain("continuing_subword_prefix", &["".into()])?;
    for field in ["fuse_unk", "byte_fallback", "ignore_merges"] {
        plain(field, &[false.into()])?;
    }
    let unknown = match &model["unk_token"] {
        Value::Null => None,
        token => Some(id_of(json, token)?),
    };
    let (composes, lowercases) = normalizer(&json["normalizer"])?;
    pre_tokenizer(&json["pre_tokenizer"])?;
    let (before, after) = post_processor(&json["post_processor"])?;
    if before.len() + after.len() >= tokens {
        return Err(format!("{} ids around a text of {tokens} tokens", before.len() + after.len()));
    }
    Ok(Settings {
        tokens,
        before,
        after,
        padding,
        unknown,
        suffix: model["end_of_word_suffix"].as_str().unwrap_or_default().to_string(),
        composes,
        lowercases,
        added: added(&json["added_tokens"])?,
    })
}

/// The id of a token of the vocabulary.
fn id_of(json: &Value, token: &Value) -> std::result::Result<u32, String> {
    let text = token.as_str().unwrap_or_default();
    let added = json["added_tokens"].as_array().into_iter().flatten();
    let mut ids = added.filter(|entry| entry["content"] == *token).map(|entry| &entry["id"]);
    let id = ids.next().or_else(|| json["model"]["vocab"].get(text)).and_then(number);
    id.ok_or_else(|| format!("the unknown token {}, which has no id", shown(token)))
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// A step, or the steps of a sequence.
fn steps<'a>(value: &'a Value, list: &str) -> Vec<&'a Value> {
    match value {
        Value::Null => Vec::new(),
        step if step["type"] == "Sequence" => step[list].as_array().into_iter().flatten().collect(),
        step => vec![step],
    }
}

/// Whether characters are composed, and put into lower case.
fn normalizer(value: &Value) -> std::result::Result<(bool, bool), String> {
    let (mut composes, mut lowercases) = (false, false);
    for step in steps(value, "normalizers") {
        match step["type"].as_str() {
            // Composing what is in lower case is not what the sources do.
            Some("NFC") if !lowercases => composes = true,
            Some("Lowercase") => lowercases = true,
            // Spaces part words, however many there are.
            Some("Replace") if step["pattern"]["Regex"] == r"\s+" && step["content"] == " " => {}
            _ => return Err(format!("the normalizer {}", shown(step))),
        }
    }
    Ok((composes, lowercases))
}

/// Words as CLIP has them, then bytes.
fn pre_tokenizer(value: &Value) -> std::result::Result<(), String> {
    let found = steps(value, "pretokenizers");
    let [split, bytes] = found[..] else { return Err(format!("the pre-tokenizer {}", shown(value))) };
    let words = split["type"] == "Split"
        && split["pattern"]["Regex"] == WORDS
        && split["behavior"] == "Removed"
        && split["invert"] == true;
    if !words {
        return Err(format!("the pre-tokenizer {}", shown(split)));
    }
    // Its own expression parts no word of the one before.
    if bytes["type"] != "ByteLevel" || bytes["add_prefix_space"] != false {
        return Err(format!("the pre-tokenizer {}", shown(bytes)));
    }
    Ok(())
}

/// The ids before and behind a text.
fn post_processor(value: &Value) -> std::result::Result<(Vec<u32>, Vec<u32>), String> {
    let unknown = || format!("the post-processor {}", shown(value));
    match value["type"].as_str() {
        None if value.is_null() => Ok((Vec::new(), Vec::new())),
        Some("ByteLevel") => Ok((Vec::new(), Vec::new())),
        Some("RobertaProcessing" | "BertProcessing") => {
            let id = |field: &str| number(&value[field][1]).ok_or_else(unknown);
            Ok((vec![id("cls")?], vec![id("sep")?]))
        }
        Some("TemplateProcessing") => {
            let (mut before, mut after, mut text) = (Vec::new(), Vec::new(), false);
            for piece in value["single"].as_array().ok_or_else(unknown)? {
                if piece["Sequence"]["id"] == "A" && !text {
                    text = true;
                    continue;
                }
                let name = piece["SpecialToken"]["id"].as_str().ok_or_else(unknown)?;
                let ids = value["special_tokens"][name]["ids"].as_array().ok_or_else(unknown)?;
                let ids: Vec<u32> = ids.iter().map(number).collect::<Option<_>>().ok_or_else(unknown)?;
                if text { after.extend(ids) } else { before.extend(ids) }
            }
            if text { Ok((before, after)) } else { Err(unknown()) }
        }
        _ => Err(unknown()),
    }
}

fn added(value: &Value) -> std::result::Result<Vec<(String, u32)>, String> {
    let entry = |entry: &Value| {
        let plain =
            ["single_word", "lstrip", "rstrip", "normalized"].iter().all(|field| entry[*field] != true);
        let (text, id) = (entry["content"].as_str(), number(&entry["id"]));
        text.filter(|text| plain && !text.is_empty())
            .zip(id)
            .map(|(text, id)| (text.to_string(), id))
            .ok_or_else(|| format!("the added token {}", shown(entry)))
    };
    value.as_array().into_iter().flatten().map(entry).collect()
}
