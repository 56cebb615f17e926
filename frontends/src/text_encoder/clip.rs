//! transformers' `CLIPTextModel`: ids to the last hidden state, behind the final layer norm.

use serde::Deserialize;
use snapc_ir::ops::{Attention, Embedding, Gelu, GeluForm, LayerNorm, MergeHeads, Pattern, SplitHeads};
use snapc_ir::{Builder, DType, Dim, Error, Graph, Result, Stage, TensorType, ValueId, Weight};
use snapc_weights::Store;

use crate::checkpoint::Checkpoint;
use crate::config::{check_multiple, check_positive, check_size};

/// The fields of its config that change the numbers; the defaults are transformers'.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Width of the hidden state.
    pub hidden_size: usize,
    /// Longest text, in tokens.
    pub max_position_embeddings: usize,
    /// Tokens that it has an embedding for.
    pub vocab_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    hidden_act: String,
    layer_norm_eps: f64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            hidden_size: 512,
            max_position_embeddings: 77,
            vocab_size: 49408,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            hidden_act: "quick_gelu".to_string(),
            layer_norm_eps: 1e-5,
        }
    }
}

impl Config {
    /// Checks that the fields fit each other.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<()> {
        for (field, value) in [
            ("hidden_size", self.hidden_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("vocab_size", self.vocab_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
        ] {
            check_size(field, value)?;
        }
        check_positive("layer_norm_eps", self.layer_norm_eps)?;
        if self.num_hidden_layers > 1000 {
            return Err(Error::input(format!("`num_hidden_layers` is {}", self.num_hidden_layers)));
        }
        check_multiple("hidden_size", self.hidden_size, self.num_attention_heads, "the heads")?;
        self.form().map(|_| ())
    }

    fn form(&self) -> Result<GeluForm> {
        match self.hidden_act.as_str() {
            "quick_gelu" => Ok(GeluForm::Quick),
            "gelu" => Ok(GeluForm::Erf),
            other => Err(Error::input(format!("`hidden_act` is {other:?}; snapc reads quick_gelu, gelu"))),
        }
    }
}

/// Tensors come with or without `text_model.` before their names.
pub fn prefix(store: &Store) -> &'static str {
    if store.names().any(|name| name.starts_with("text_model.")) { "text_model." } else { "" }
}

/// The graph: `input_ids i32[B, tokens]` to `text [B, tokens, hidden_size]`. It runs without a padding mask: attention is causal, so
/// padding behind a text changes no real token.
///
/// # Errors
/// If the text is longer than the model's positions.
pub fn import(config: &Config, checkpoint: &mut Checkpoint, batch: usize, tokens: usize) -> Result<Graph> {
    if tokens > config.max_position_embeddings {
        return Err(Error::input(format!(
            "the transformer wants {tokens} tokens of text, the text encoder has {} positions",
            config.max_position_embeddings
        ))
        .help("`max_text_tokens` in transformer/config.json must not pass `max_position_embeddings` in text_encoder/config.json"));
    }
    checkpoint.ignore("embeddings.position_ids", "a buffer of old checkpoints: 0, 1, 2, ..");
    let mut b = Builder::new("text_encoder", Stage::Subnet);
    let ids = b.input("input_ids", TensorType::new(DType::I32, [batch, tokens]));
    let mut encoder = Encoder { b: &mut b, checkpoint, config };
    let mut x = encoder.embed(ids, tokens)?;
    for layer in 0..config.num_hidden_layers {
        let path = format!("encoder.layers.{layer}");
        let normed = encoder.norm(&format!("{path}.layer_norm1"), x)?;
        let mixed = encoder.attention(&format!("{path}.self_attn"), normed)?;
        x = encoder.b.add(x, mixed)?;
        let normed = encoder.norm(&format!("{path}.layer_norm2"), x)?;
        let changed = encoder.mlp(&format!("{path}.mlp"), normed)?;
        x = encoder.b.add(x, changed)?;
    }
    let text = encoder.norm("final_layer_norm", x)?;
    b.output("text", text);
    b.finish()
}

struct Encoder<'a, 'b> {
    b: &'a mut Builder,
    checkpoint: &'a mut Checkpoint<'b>,
    config: &'a Config,
}

impl Encoder<'_, '_> {
    fn weight(&mut self, name: &str, sizes: &[usize]) -> Result<ValueId> {
        self.checkpoint.weight(self.b, name, sizes.iter().copied().map(Dim::fixed).collect())
    }

    fn embed(&mut self, ids: ValueId, tokens: usize) -> Result<ValueId> {
        let Config { hidden_size, vocab_size, max_position_embeddings, .. } = *self.config;
        let table = self.weight("embeddings.token_embedding.weight", &[vocab_size, hidden_size])?;
        let path = "embeddings.position_embedding.weight";
        let all = self.weight(path, &[max_position_embeddings, hidden_size])?;
        let positions = match self.b.as_weight(all) {
            Some(weight) if tokens < max_position_embeddings => {
                let mut first: Weight = weight.clone();
                first.name = format!("{}.first.{tokens}", first.name);
                first.take(0, tokens)?;
                self.b.weight(first)?
            }
            _ => all,
        };
        let rows = self.b.scoped("embeddings.token_embedding", |b| b.one(Embedding {}, &[ids, table]))?;
        self.b.scoped("embeddings", |b| b.add(rows, positions))
    }

    fn norm(&mut self, path: &str, x: ValueId) -> Result<ValueId> {
        let weight = self.weight(&format!("{path}.weight"), &[self.config.hidden_size])?;
        let bias = self.weight(&format!("{path}.bias"), &[self.config.hidden_size])?;
        let eps = self.config.layer_norm_eps as f32;
        self.b.scoped(path, |b| b.one(LayerNorm { eps }, &[x, weight, bias]))
    }

    fn linear(&mut self, path: &str, x: ValueId, input: usize, output: usize) -> Result<ValueId> {
        let weight = self.weight(&format!("{path}.weight"), &[output, input])?;
        let bias = self.weight(&format!("{path}.bias"), &[output])?;
        self.b.scoped(path, |b| b.linear(x, weight, Some(bias)))
    }

    fn attention(&mut self, path: &str, x: ValueId) -> Result<ValueId> {
        let size = self.config.hidden_size;
        let head_dim = size / self.config.num_attention_heads;
        let mut heads = Vec::new();
        for name in ["q_proj", "k_proj", "v_proj"] {
            let projected = self.linear(&format!("{path}.{name}"), x, size, size)?;
            heads.push(self.b.scoped(path, |b| b.one(SplitHeads { head_dim }, &[projected]))?);
        }
        let scale = 1.0 / (head_dim as f32).sqrt();
        let merged = self.b.scoped(path, |b| {
            let mixed = b.one(Attention { pattern: Pattern::Causal, scale }, &heads)?;
            b.one(MergeHeads {}, &[mixed])
        })?;
        self.linear(&format!("{path}.out_proj"), merged, size, size)
    }

    fn mlp(&mut self, path: &str, x: ValueId) -> Result<ValueId> {
        let Config { hidden_size, intermediate_size, .. } = *self.config;
        let form = self.config.form()?;
        let wide = self.linear(&format!("{path}.fc1"), x, hidden_size, intermediate_size)?;
        let bent = self.b.scoped(path, |b| b.one(Gelu { form }, &[wide]))?;
        self.linear(&format!("{path}.fc2"), bent, intermediate_size, hidden_size)
    }
}
