//! Pipelines with weights that nobody trained.

use std::collections::BTreeMap;
use std::path::Path;

use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::{copy_folder, fixture};

/// The *mini* transformer: three blocks of width 512 on 32 x 32 latents, patches of 2. Text encoder and VAE are the fixture's, so
/// its text is as narrow as theirs.
pub fn mini(folder: &Path) {
    copy_folder(&fixture("shapes"), folder);
    let config = json!({
        "_class_name": "SnapGenPlusPlusTransformer2DModel",
        "in_channels": 4, "out_channels": 4, "patch_size": 2, "sample_size": 32,
        "width": 512, "head_dim": 64, "q_per_kv": 2,
        "num_down_blocks": 1, "num_mid_blocks": 1, "num_up_blocks": 1,
        "ffn_ratio": 4, "text_dim": 64, "max_text_tokens": 16,
        "assa_block": 4, "assa_radius": 1, "kv_compression": 2,
        "rope_theta": 10000.0, "norm_eps": 1e-6, "time_freq_dim": 256,
        "subnets": {"tiny": {"width": 128}, "small": {"width": 256}, "full": {"width": 512}},
    });
    std::fs::write(folder.join("transformer/config.json"), config.to_string()).unwrap();
    write(&folder.join("transformer/diffusion_pytorch_model.safetensors"), &transformer(&config));
}

/// The paper's pipeline, its weights zeros that take no disk.
pub fn paper(folder: &Path) {
    let paper = xtask::model::CONFIGS.into_iter().find(|config| config.name == "paper").unwrap();
    xtask::supernet(&paper, &fixture("shapes"), folder, true).unwrap();
}

type Shapes = BTreeMap<String, Vec<usize>>;

/// The tensors of a transformer whose key-value convolutions have a group a head.
fn transformer(config: &Value) -> Shapes {
    let of = |field: &str| config[field].as_u64().unwrap() as usize;
    let (w, d, p, time) = (of("width"), of("head_dim"), of("patch_size"), of("time_freq_dim"));
    let channels = of("in_channels");
    let mut all = Shapes::new();
    let mut linear = |name: &str, out: usize, input: usize| {
        all.insert(format!("{name}.weight"), vec![out, input]);
        all.insert(format!("{name}.bias"), vec![out]);
    };
    linear("time_embed.0", w, time);
    linear("time_embed.2", w, w);
    linear("time_mod", 6 * w, w);
    linear("text_proj.0", w, of("text_dim"));
    linear("text_proj.2", w, w);
    linear("upsample", 4 * w, w);
    linear("proj_out", p * p * of("out_channels"), w);
    for (stage, side) in [("patch_embed", (channels, p)), ("downsample", (w, 2))] {
        all.insert(format!("{stage}.weight"), vec![w, side.0, side.1, side.1]);
        all.insert(format!("{stage}.bias"), vec![w]);
    }
    all.insert("out_mod".to_string(), vec![2, w]);
    for (stage, sparse) in [("down", true), ("mid", false), ("up", true)] {
        for block in 0..of(&format!("num_{stage}_blocks")) {
            block_of(&mut all, &format!("{stage}.{block}"), w, d, of("q_per_kv"), of("ffn_ratio"), sparse);
        }
    }
    for block in 0..of("num_up_blocks") {
        all.insert(format!("up.{block}.skip.weight"), vec![w, 2 * w]);
        all.insert(format!("up.{block}.skip.bias"), vec![w]);
    }
    all
}

fn block_of(all: &mut Shapes, path: &str, w: usize, d: usize, q_per_kv: usize, ffn: usize, sparse: bool) {
    let keys = w / q_per_kv;
    all.insert(format!("{path}.mod_table"), vec![6, w]);
    for attention in ["self_attn", "cross_attn"] {
        for (name, out) in [("q", w), ("k", keys), ("v", keys), ("o", w)] {
            all.insert(format!("{path}.{attention}.{name}.weight"), vec![out, w]);
        }
        for name in ["q_norm", "k_norm"] {
            all.insert(format!("{path}.{attention}.{name}"), vec![d]);
        }
    }
    for (name, shape) in [("ffn.0", [ffn * w, w]), ("ffn.2", [w, ffn * w])] {
        all.insert(format!("{path}.{name}.weight"), shape.to_vec());
        all.insert(format!("{path}.{name}.bias"), vec![shape[0]]);
    }
    if sparse {
        for name in ["kv_conv_k", "kv_conv_v"] {
            all.insert(format!("{path}.self_attn.{name}.weight"), vec![keys, d, 2, 2]);
        }
        all.insert(format!("{path}.self_attn.gate.weight"), vec![w / d, w]);
        all.insert(format!("{path}.self_attn.gate.bias"), vec![w / d]);
    }
}

/// Small numbers that differ, in f16.
fn write(path: &Path, shapes: &Shapes) {
    let mut state = 7u32;
    let mut number = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        f16::from_f32(((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 0.05).to_le_bytes()
    };
    let tensors: BTreeMap<&str, (Vec<usize>, Vec<u8>)> = shapes
        .iter()
        .map(|(name, shape)| {
            let count: usize = shape.iter().product();
            (name.as_str(), (shape.clone(), (0..count).flat_map(|_| number()).collect()))
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, (shape, bytes))| (*name, TensorView::new(Dtype::F16, shape.clone(), bytes).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}
