//! A pipeline's `tokenizer/` folder: prompts to ids, cut and padded as the pipeline does it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use snapc_ir::{Error, Place, Result};
use tokenizers::{PaddingDirection, PaddingParams, PaddingStrategy, TruncationParams};

use crate::config::{read_object, text};

/// The files that a tokenizer folder may have; the first must be there.
pub const FILES: [&str; 5] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"];

/// A tokenizer for texts of a fixed number of tokens.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same without a limit, to tell what does not fit.
    unlimited: tokenizers::Tokenizer,
    tokens: usize,
    padding: u32,
}

/// A prompt as the text encoder and the transformer take it.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// Token ids, padded on the right.
    pub ids: Vec<i32>,
    /// 1 for a real token, 0 for padding: the tokenizer's attention mask.
    pub mask: Vec<f32>,
    /// The end of the prompt that did not fit.
    pub cut: Option<String>,
}

impl Tokenizer {
    /// Opens the `tokenizer/` folder of a pipeline for texts of `tokens` tokens.
    ///
    /// # Errors
    /// If a file is missing or damaged, the padding token is not in the vocabulary, or it pads or cuts on the left.
    pub fn open(pipeline: &Path, tokens: usize) -> Result<Self> {
        let folder = pipeline.join("tokenizer");
        let path = folder.join("tokenizer.json");
        let place = || Place::File(path.clone());
        let bytes = std::fs::read(&path).map_err(|error| {
            Error::io("read", &path, &error).help(
                "save the tokenizer as a fast one: AutoTokenizer.from_pretrained(..).save_pretrained(..)",
            )
        })?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|error| Error::input(format!("the tokenizer cannot be read: {error}")).at(place()))?;
        let config_path = folder.join("tokenizer_config.json");
        let config = if config_path.exists() { read_object(&config_path)? } else { Map::new() };
        for side in ["padding_side", "truncation_side"] {
            if let Some(found) = text(&config, side).filter(|found| *found != "right") {
                return Err(Error::input(format!("`{side}` is {found}, expected right"))
                    .at(Place::File(config_path))
                    .help("the model is trained on texts that are cut and padded on the right"));
            }
        }
        let (pad_token, pad_id) = padding(&inner, &config).map_err(|error| error.at(place()))?;
        let fail =
            |error| Error::input(format!("the tokenizer cannot cut to {tokens} tokens: {error}")).at(place());
        inner.with_padding(None).with_truncation(None).map_err(fail)?;
        let unlimited = inner.clone();
        let truncation = TruncationParams { max_length: tokens, ..TruncationParams::default() };
        inner.with_truncation(Some(truncation)).map_err(fail)?;
        inner.with_padding(Some(PaddingParams {
            strategy: PaddingStrategy::Fixed(tokens),
            direction: PaddingDirection::Right,
            pad_to_multiple_of: None,
            pad_id,
            pad_type_id: 0,
            pad_token,
        }));
        Ok(Tokenizer { inner, unlimited, tokens, padding: pad_id })
    }

    /// The largest id that it gives.
    pub fn largest_id(&self) -> u32 {
        self.inner.get_vocab(true).into_values().max().unwrap_or(0)
    }

    /// The id that fills a text up.
    pub fn padding_id(&self) -> u32 {
        self.padding
    }

    /// Turns a prompt into ids.
    ///
    /// # Errors
    /// If the tokenizer cannot take it.
    pub fn encode(&self, prompt: &str) -> Result<Encoded> {
        let fail =
            |error: tokenizers::Error| Error::input(format!("the prompt cannot be tokenized: {error}"));
        let encoding = self.inner.encode(prompt, true).map_err(fail)?;
        let cut = if encoding.get_overflowing().is_empty() {
            None
        } else {
            // The last token that was kept ends the text, so the prompt's own end one place before it.
            let whole = self.unlimited.encode(prompt, true).map_err(fail)?;
            let start = whole.get_offsets().get(self.tokens.saturating_sub(1)).map_or(0, |offsets| offsets.0);
            Some(prompt.get(start..).unwrap_or(prompt).trim().to_string())
        };
        let ids: Vec<i32> = encoding.get_ids().iter().map(|&id| id as i32).collect();
        let mask: Vec<f32> = encoding.get_attention_mask().iter().map(|&bit| bit as f32).collect();
        if ids.len() != self.tokens || mask.len() != self.tokens {
            return Err(Error::bug(format!("{} ids came back for {} tokens", ids.len(), self.tokens)));
        }
        Ok(Encoded { ids, mask, cut })
    }
}

/// The padding token and its id: the config's, else the end token's.
fn padding(tokenizer: &tokenizers::Tokenizer, config: &Map<String, Value>) -> Result<(String, u32)> {
    let named = |field: &str| match config.get(field) {
        Some(Value::String(token)) => Some(token.clone()),
        Some(Value::Object(token)) => text(token, "content").map(str::to_string),
        _ => None,
    };
    let token =
        named("pad_token").or_else(|| named("eos_token")).unwrap_or_else(|| "<|endoftext|>".to_string());
    let id = tokenizer.token_to_id(&token).ok_or_else(|| {
        Error::input(format!("the padding token {token:?} is not in the vocabulary"))
            .help("`pad_token` in tokenizer_config.json must be a token of tokenizer.json")
    })?;
    Ok((token, id))
}

/// The files of a pipeline's tokenizer that are there.
pub fn files(pipeline: &Path) -> Vec<PathBuf> {
    FILES.iter().map(|name| pipeline.join("tokenizer").join(name)).filter(|path| path.is_file()).collect()
}
