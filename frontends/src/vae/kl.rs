//! diffusers' `AutoencoderKL`: the decoder.

use serde::Deserialize;
use snapc_ir::ops::{
    Attention, GroupNorm, MapFromTokens, MergeHeads, Pattern, Silu, SplitHeads, TokensFromMap,
    UpsampleNearest,
};
use snapc_ir::{Builder, DType, Dim, Error, Graph, Result, Stage, TensorType, ValueId};

use super::{check_known, conv, unscale};
use crate::checkpoint::Checkpoint;
use crate::config::{check_multiple, check_positive, check_size};

/// The fields of its config that the decoder has; the defaults are diffusers'.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Channels of the image.
    pub out_channels: usize,
    block_out_channels: Vec<usize>,
    up_block_types: Vec<String>,
    layers_per_block: usize,
    norm_num_groups: usize,
    act_fn: String,
    /// What a latent is divided by before it is decoded.
    pub scaling_factor: f64,
    shift_factor: Option<f64>,
    use_post_quant_conv: bool,
    mid_block_add_attention: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            latent_channels: 4,
            out_channels: 3,
            block_out_channels: vec![64],
            up_block_types: vec!["UpDecoderBlock2D".to_string()],
            layers_per_block: 1,
            norm_num_groups: 32,
            act_fn: "silu".to_string(),
            scaling_factor: 0.18215,
            shift_factor: None,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

impl Config {
    /// Checks that the fields fit each other.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<()> {
        check_known("act_fn", &self.act_fn, &["silu", "swish"])?;
        check_positive("scaling_factor", self.scaling_factor)?;
        for (field, value) in [
            ("latent_channels", self.latent_channels),
            ("out_channels", self.out_channels),
            ("layers_per_block", self.layers_per_block),
            ("norm_num_groups", self.norm_num_groups),
        ] {
            check_size(field, value)?;
        }
        let channels = &self.block_out_channels;
        if channels.is_empty() || channels.len() > 16 || channels.len() != self.up_block_types.len() {
            return Err(Error::input(format!(
                "`block_out_channels` has {} entries and `up_block_types` {}, expected equally many, 1 to 16",
                channels.len(),
                self.up_block_types.len()
            )));
        }
        for &size in channels {
            check_size("block_out_channels", size)?;
            check_multiple("block_out_channels", size, self.norm_num_groups, "the groups of the norms")?;
        }
        self.up_block_types
            .iter()
            .try_for_each(|name| check_known("up_block_types", name, &["UpDecoderBlock2D"]))
    }

    /// How many pixels a number of the latent covers on each axis.
    pub fn pixels_per_latent(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

/// The decoder's graph: `latent [B, C, H, W]` as the sampler leaves it to `image [B, 3, s * H, s * W]`, about [-1, 1].
///
/// # Errors
/// If two recipes have one name.
pub fn import(config: &Config, checkpoint: &mut Checkpoint, batch: usize, size: [usize; 2]) -> Result<Graph> {
    checkpoint.ignore("encoder.", "the encoder is not needed to make pictures");
    checkpoint.ignore("quant_conv.", "it belongs to the encoder");
    let mut b = Builder::new("vae_decoder", Stage::Subnet);
    let shape = [batch, config.latent_channels, size[0], size[1]];
    let latent = b.input("latent", TensorType::new(DType::F32, shape));
    let mut z = unscale(&mut b, latent, config.scaling_factor, config.shift_factor.unwrap_or(0.0))?;
    if config.use_post_quant_conv {
        let channels = config.latent_channels;
        z = conv(&mut b, checkpoint, z, "post_quant_conv", [channels, channels, 1], true)?;
    }
    let mut decoder = Decoder { b: &mut b, checkpoint, groups: config.norm_num_groups };
    let image = decoder.decode(config, z)?;
    b.output("image", image);
    b.finish()
}

struct Decoder<'a, 'b> {
    b: &'a mut Builder,
    checkpoint: &'a mut Checkpoint<'b>,
    groups: usize,
}

impl Decoder<'_, '_> {
    fn decode(&mut self, config: &Config, z: ValueId) -> Result<ValueId> {
        let channels = &config.block_out_channels;
        let deepest = channels[channels.len() - 1];
        let mut x = self.conv("decoder.conv_in", z, [config.latent_channels, deepest, 3])?;
        x = self.resnet("decoder.mid_block.resnets.0", x, deepest, deepest)?;
        if config.mid_block_add_attention {
            x = self.attention("decoder.mid_block.attentions.0", x, deepest)?;
        }
        x = self.resnet("decoder.mid_block.resnets.1", x, deepest, deepest)?;
        let mut input = deepest;
        for (stage, &output) in channels.iter().rev().enumerate() {
            let path = format!("decoder.up_blocks.{stage}");
            for layer in 0..=config.layers_per_block {
                x = self.resnet(&format!("{path}.resnets.{layer}"), x, input, output)?;
                input = output;
            }
            if stage + 1 < channels.len() {
                x = self.b.one(UpsampleNearest { factor: 2 }, &[x])?;
                x = self.conv(&format!("{path}.upsamplers.0.conv"), x, [output, output, 3])?;
            }
        }
        x = self.norm("decoder.conv_norm_out", x, input)?;
        x = self.b.one(Silu {}, &[x])?;
        self.conv("decoder.conv_out", x, [input, config.out_channels, 3])
    }

    fn conv(&mut self, path: &str, x: ValueId, sizes: [usize; 3]) -> Result<ValueId> {
        conv(self.b, self.checkpoint, x, path, sizes, true)
    }

    fn vector(&mut self, name: &str, size: usize) -> Result<ValueId> {
        self.checkpoint.weight(self.b, name, vec![Dim::fixed(size)])
    }

    fn norm(&mut self, path: &str, x: ValueId, channels: usize) -> Result<ValueId> {
        let weight = self.vector(&format!("{path}.weight"), channels)?;
        let bias = self.vector(&format!("{path}.bias"), channels)?;
        let groups = self.groups;
        self.b.scoped(path, |b| b.one(GroupNorm { groups, eps: 1e-6 }, &[x, weight, bias]))
    }

    fn resnet(&mut self, path: &str, x: ValueId, input: usize, output: usize) -> Result<ValueId> {
        let mut y = self.norm(&format!("{path}.norm1"), x, input)?;
        y = self.b.one(Silu {}, &[y])?;
        y = self.conv(&format!("{path}.conv1"), y, [input, output, 3])?;
        y = self.norm(&format!("{path}.norm2"), y, output)?;
        y = self.b.one(Silu {}, &[y])?;
        y = self.conv(&format!("{path}.conv2"), y, [output, output, 3])?;
        let straight = match input == output {
            true => x,
            false => self.conv(&format!("{path}.conv_shortcut"), x, [input, output, 1])?,
        };
        self.b.add(straight, y)
    }

    /// One head over all places. Checkpoints of before diffusers 0.18 name its four linears otherwise.
    fn attention(&mut self, path: &str, x: ValueId, channels: usize) -> Result<ValueId> {
        let shape = self.b.ty(x).shape.clone();
        let normed = self.norm(&format!("{path}.group_norm"), x, channels)?;
        let tokens = self.b.one(TokensFromMap {}, &[normed])?;
        let mut heads = Vec::new();
        for (name, old) in [("to_q", "query"), ("to_k", "key"), ("to_v", "value")] {
            let projected = self.linear(path, name, old, tokens, channels)?;
            heads.push(self.b.one(SplitHeads { head_dim: channels }, &[projected])?);
        }
        let scale = 1.0 / (channels as f32).sqrt();
        let mixed = self.b.scoped(path, |b| b.one(Attention { pattern: Pattern::Dense, scale }, &heads))?;
        let merged = self.b.one(MergeHeads {}, &[mixed])?;
        let out = self.linear(path, "to_out.0", "proj_attn", merged, channels)?;
        let map = self.b.one(MapFromTokens { grid: [shape[2], shape[3]] }, &[out])?;
        self.b.add(map, x)
    }

    fn linear(&mut self, path: &str, name: &str, old: &str, x: ValueId, size: usize) -> Result<ValueId> {
        let old = format!("{path}.{old}");
        let path = if self.checkpoint.has(&format!("{old}.weight")) { old } else { format!("{path}.{name}") };
        let dims = vec![Dim::fixed(size), Dim::fixed(size)];
        let weight = self.checkpoint.weight(self.b, &format!("{path}.weight"), dims)?;
        let bias = self.vector(&format!("{path}.bias"), size)?;
        self.b.scoped(&path, |b| b.linear(x, weight, Some(bias)))
    }
}
