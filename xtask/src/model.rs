use serde_json::{Map, Value, json};

use crate::Tensor;

/// The transformer's config, with the paper's numbers where nothing else is said.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Its name on the command line.
    pub name: &'static str,
    width: usize,
    blocks: [usize; 3],
    text_dim: usize,
    text_tokens: usize,
    sample_size: usize,
    tile: usize,
    subnets: [(&'static str, usize); 3],
}

const HEAD_DIM: usize = 64;
const CHANNELS: usize = 16;
const PATCH: usize = 2;
const WINDOW: usize = 2;
const FFN_RATIO: usize = 4;
const TIME_DIM: usize = 256;
const Q_PER_KV: usize = 2;
const TEXT_LAYERS: usize = 2;

const PAPER: Config = Config {
    name: "paper",
    width: 2048,
    blocks: [5, 15, 5],
    text_dim: 2048,
    text_tokens: 128,
    sample_size: 128,
    tile: 8,
    subnets: [("tiny", 896), ("small", 1024), ("full", 2048)],
};

/// Every config: the paper's; a tenth of its depth; and a small one.
pub const CONFIGS: [Config; 3] = [
    PAPER,
    Config { name: "tenth", blocks: [1, 2, 1], ..PAPER },
    Config {
        name: "mini",
        width: 512,
        blocks: [1, 1, 1],
        text_dim: 256,
        text_tokens: 32,
        sample_size: 32,
        tile: 4,
        subnets: [("tiny", 128), ("small", 256), ("full", 512)],
    },
];

fn tensor(name: impl Into<String>, shape: &[usize], mean: f32, deviation: f32) -> Tensor {
    Tensor { name: name.into(), shape: shape.to_vec(), mean, deviation }
}

/// A weight whose products keep the size of what they are made of, and its bias.
fn linear(all: &mut Vec<Tensor>, path: &str, output: usize, input: &[usize], bias: bool) {
    let deviation = 1.0 / (input.iter().product::<usize>() as f32).sqrt();
    let shape: Vec<usize> = std::iter::once(output).chain(input.iter().copied()).collect();
    all.push(tensor(format!("{path}.weight"), &shape, 0.0, deviation));
    if bias {
        all.push(tensor(format!("{path}.bias"), &[output], 0.0, 0.02));
    }
}

impl Config {
    /// The same with so many Down, Mid and Up blocks.
    pub fn with_blocks(self, blocks: [usize; 3]) -> Self {
        Config { blocks, ..self }
    }

    /// `transformer/config.json`.
    pub fn json(&self) -> Value {
        let subnets: Map<String, Value> =
            self.subnets.iter().map(|(name, width)| (name.to_string(), json!({"width": width}))).collect();
        json!({
            "_class_name": "SnapGenPlusPlusTransformer2DModel",
            "in_channels": CHANNELS,
            "out_channels": CHANNELS,
            "patch_size": PATCH,
            "sample_size": self.sample_size,
            "width": self.width,
            "head_dim": HEAD_DIM,
            "q_per_kv": Q_PER_KV,
            "num_down_blocks": self.blocks[0],
            "num_mid_blocks": self.blocks[1],
            "num_up_blocks": self.blocks[2],
            "ffn_ratio": FFN_RATIO,
            "text_dim": self.text_dim,
            "max_text_tokens": self.text_tokens,
            "assa_block": self.tile,
            "assa_radius": 1,
            "kv_compression": WINDOW,
            "rope_theta": 10000.0,
            "norm_eps": 1e-6,
            "time_freq_dim": TIME_DIM,
            "subnets": subnets,
        })
    }

    /// The transformer's tensors. The output axis of a convolution's groups is a head's.
    pub fn transformer(&self) -> Vec<Tensor> {
        let (w, mut all) = (self.width, Vec::new());
        linear(&mut all, "patch_embed", w, &[CHANNELS, PATCH, PATCH], true);
        linear(&mut all, "time_embed.0", w, &[TIME_DIM], true);
        linear(&mut all, "time_embed.2", w, &[w], true);
        linear(&mut all, "time_mod", 6 * w, &[w], true);
        linear(&mut all, "text_proj.0", w, &[self.text_dim], true);
        linear(&mut all, "text_proj.2", w, &[w], true);
        for (stage, count) in ["down", "mid", "up"].iter().zip(self.blocks) {
            for block in 0..count {
                let path = format!("{stage}.{block}");
                if *stage == "up" {
                    linear(&mut all, &format!("{path}.skip"), w, &[2 * w], true);
                }
                self.block(&mut all, &path, *stage != "mid");
            }
        }
        linear(&mut all, "downsample", w, &[w, 2, 2], true);
        linear(&mut all, "upsample", 4 * w, &[w], true);
        all.push(tensor("out_mod", &[2, w], 0.0, 0.1));
        linear(&mut all, "proj_out", PATCH * PATCH * CHANNELS, &[w], true);
        all
    }

    fn block(&self, all: &mut Vec<Tensor>, path: &str, sparse: bool) {
        let (w, kv) = (self.width, self.width / Q_PER_KV);
        all.push(tensor(format!("{path}.mod_table"), &[6, w], 0.0, 0.1));
        for attention in ["self_attn", "cross_attn"] {
            let path = format!("{path}.{attention}");
            for (name, size) in [("q", w), ("k", kv), ("v", kv)] {
                linear(all, &format!("{path}.{name}"), size, &[w], false);
            }
            linear(all, &format!("{path}.o"), w, &[w], false);
            for name in ["q_norm", "k_norm"] {
                all.push(tensor(format!("{path}.{name}"), &[HEAD_DIM], 1.0, 0.1));
            }
            if sparse && attention == "self_attn" {
                for name in ["kv_conv_k", "kv_conv_v"] {
                    linear(all, &format!("{path}.{name}"), kv, &[HEAD_DIM, WINDOW, WINDOW], false);
                }
                linear(all, &format!("{path}.gate"), w / HEAD_DIM, &[w], true);
            }
        }
        linear(all, &format!("{path}.ffn.0"), FFN_RATIO * w, &[w], true);
        linear(all, &format!("{path}.ffn.2"), w, &[FFN_RATIO * w], true);
    }

    /// A CLIP text encoder of the hidden size that the transformer takes: its config from a template, and its tensors.
    pub fn text_encoder(&self, mut config: Map<String, Value>) -> (Map<String, Value>, Vec<Tensor>) {
        let (w, tokens, mut all) = (self.text_dim, self.text_tokens, Vec::new());
        let vocabulary = config.get("vocab_size").and_then(Value::as_u64).unwrap_or_default() as usize;
        for (field, value) in [
            ("hidden_size", w),
            ("projection_dim", w),
            ("intermediate_size", FFN_RATIO * w),
            ("max_position_embeddings", tokens),
            ("num_attention_heads", w / HEAD_DIM),
            ("num_hidden_layers", TEXT_LAYERS),
        ] {
            config.insert(field.to_string(), json!(value));
        }
        config.insert("dtype".to_string(), json!("float16"));
        all.push(tensor("text_model.embeddings.position_embedding.weight", &[tokens, w], 0.0, 0.1));
        all.push(tensor("text_model.embeddings.token_embedding.weight", &[vocabulary, w], 0.0, 1.0));
        for layer in 0..TEXT_LAYERS {
            let path = format!("text_model.encoder.layers.{layer}");
            norm(&mut all, &format!("{path}.layer_norm1"), w);
            norm(&mut all, &format!("{path}.layer_norm2"), w);
            for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                linear(&mut all, &format!("{path}.self_attn.{name}"), w, &[w], true);
            }
            linear(&mut all, &format!("{path}.mlp.fc1"), FFN_RATIO * w, &[w], true);
            linear(&mut all, &format!("{path}.mlp.fc2"), w, &[FFN_RATIO * w], true);
        }
        norm(&mut all, "text_model.final_layer_norm", w);
        (config, all)
    }

    /// An AutoencoderTiny decoder that enlarges eight times: its config from a template, and its tensors.
    pub fn vae(&self, mut config: Map<String, Value>) -> (Map<String, Value>, Vec<Tensor>) {
        const WIDTH: usize = 64;
        const BLOCKS: [usize; 4] = [3, 3, 3, 1];
        config.insert("latent_channels".to_string(), json!(CHANNELS));
        for side in ["encoder", "decoder"] {
            config.insert(format!("{side}_block_out_channels"), json!(vec![WIDTH; 4]));
            config.insert(format!("num_{side}_blocks"), json!(BLOCKS));
        }
        let mut all = Vec::new();
        let mut layer = 0;
        let conv = |all: &mut Vec<Tensor>, path: String, output: usize, input: usize, bias: bool| {
            linear(all, &path, output, &[input, 3, 3], bias);
        };
        conv(&mut all, format!("decoder.layers.{layer}"), WIDTH, CHANNELS, true);
        // A rectifier stands behind the first convolution, and one upsampling behind each stage but the last.
        layer += 2;
        for (stage, &blocks) in BLOCKS.iter().enumerate() {
            for _ in 0..blocks {
                for step in [0, 2, 4] {
                    conv(&mut all, format!("decoder.layers.{layer}.conv.{step}"), WIDTH, WIDTH, true);
                }
                layer += 1;
            }
            let last = stage + 1 == BLOCKS.len();
            layer += usize::from(!last);
            let output = if last { 3 } else { WIDTH };
            conv(&mut all, format!("decoder.layers.{layer}"), output, WIDTH, last);
            layer += 1;
        }
        (config, all)
    }
}

fn norm(all: &mut Vec<Tensor>, path: &str, width: usize) {
    all.push(tensor(format!("{path}.weight"), &[width], 1.0, 0.1));
    all.push(tensor(format!("{path}.bias"), &[width], 0.0, 0.02));
}

#[cfg(test)]
mod tests {
    use super::CONFIGS;

    /// The paper's full network has 1.6 billion parameters.
    #[test]
    fn the_paper_has_its_size() {
        let count = |name: &str| -> usize {
            let config = CONFIGS.iter().find(|config| config.name == name).into_iter();
            config
                .flat_map(|config| config.transformer())
                .map(|tensor| tensor.shape.iter().product::<usize>())
                .sum()
        };
        assert_eq!(count("paper") / 10_000_000, 158);
        assert!(count("tenth") < count("paper") / 4 && count("mini") < count("tenth") / 10);
    }
}
