//! diffusers' `AutoencoderTiny`: the decoder.

use serde::Deserialize;
use snapc_ir::ops::{Relu, UpsampleNearest};
use snapc_ir::{Builder, DType, Error, Graph, Result, Stage, TensorType, ValueId};

use super::{check_known, conv, unscale};
use crate::checkpoint::Checkpoint;
use crate::config::{check_positive, check_size};

/// The fields of its config that the decoder has; the defaults are diffusers'.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Channels of the image.
    pub out_channels: usize,
    decoder_block_out_channels: Vec<usize>,
    num_decoder_blocks: Vec<usize>,
    upsampling_scaling_factor: usize,
    upsample_fn: String,
    act_fn: String,
    /// What a latent is divided by before it is decoded.
    pub scaling_factor: f64,
    shift_factor: Option<f64>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            latent_channels: 4,
            out_channels: 3,
            decoder_block_out_channels: vec![64; 4],
            num_decoder_blocks: vec![3, 3, 3, 1],
            upsampling_scaling_factor: 2,
            upsample_fn: "nearest".to_string(),
            act_fn: "relu".to_string(),
            scaling_factor: 1.0,
            shift_factor: None,
        }
    }
}

impl Config {
    /// Checks that the fields fit each other.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<()> {
        check_known("act_fn", &self.act_fn, &["relu"])?;
        check_known("upsample_fn", &self.upsample_fn, &["nearest"])?;
        check_positive("scaling_factor", self.scaling_factor)?;
        check_size("latent_channels", self.latent_channels)?;
        check_size("out_channels", self.out_channels)?;
        let (channels, blocks) = (&self.decoder_block_out_channels, &self.num_decoder_blocks);
        if channels.len() != blocks.len() || channels.is_empty() || channels.len() > 16 {
            return Err(Error::input(format!(
                "`decoder_block_out_channels` has {} entries and `num_decoder_blocks` {}, expected equally many, 1 to 16",
                channels.len(),
                blocks.len()
            )));
        }
        channels.iter().try_for_each(|&size| check_size("decoder_block_out_channels", size))?;
        if !(1..=8).contains(&self.upsampling_scaling_factor) || blocks.iter().any(|&count| count > 1000) {
            return Err(Error::input("`upsampling_scaling_factor` or `num_decoder_blocks` is out of range"));
        }
        Ok(())
    }

    /// How many pixels a number of the latent covers on each axis.
    pub fn pixels_per_latent(&self) -> usize {
        self.upsampling_scaling_factor.pow(self.num_decoder_blocks.len() as u32 - 1)
    }
}

/// The decoder's graph: `latent [B, C, H, W]` as the sampler leaves it to `image [B, 3, s * H, s * W]`, about [-1, 1].
///
/// # Errors
/// If two recipes have one name.
pub fn import(config: &Config, checkpoint: &mut Checkpoint, batch: usize, size: [usize; 2]) -> Result<Graph> {
    checkpoint.ignore("encoder.", "the encoder is not needed to make pictures");
    let mut b = Builder::new("vae_decoder", Stage::Subnet);
    let shape = [batch, config.latent_channels, size[0], size[1]];
    let latent = b.input("latent", TensorType::new(DType::F32, shape));
    let z = unscale(&mut b, latent, config.scaling_factor, config.shift_factor.unwrap_or(0.0))?;
    let image = b.scoped("decoder", |b| decode(b, config, checkpoint, z))?;
    b.output("image", image);
    b.finish()
}

fn decode(b: &mut Builder, config: &Config, checkpoint: &mut Checkpoint, z: ValueId) -> Result<ValueId> {
    let channels = &config.decoder_block_out_channels;
    let narrow = b.mul_scalar(z, 1.0 / 3.0)?;
    let bent = b.tanh(narrow)?;
    let clamped = b.mul_scalar(bent, 3.0)?;
    // The layers lie in one list with the activations and upsamplings, which have no weights but count.
    let mut layer = 0;
    let mut next = |skip: usize| {
        layer += skip;
        layer += 1;
        format!("layers.{}", layer - 1)
    };
    let mut x = conv(b, checkpoint, clamped, &next(0), [config.latent_channels, channels[0], 3], true)?;
    x = b.one(Relu {}, &[x])?;
    let mut behind = 1;
    for (stage, &blocks) in config.num_decoder_blocks.iter().enumerate() {
        let last = stage + 1 == channels.len();
        for _ in 0..blocks {
            let name = next(std::mem::take(&mut behind));
            x = b.scoped(&name, |b| block(b, checkpoint, x, channels[stage]))?;
        }
        if !last {
            x = b.one(UpsampleNearest { factor: config.upsampling_scaling_factor }, &[x])?;
            behind += 1;
        }
        let output = if last { config.out_channels } else { channels[stage] };
        let name = next(std::mem::take(&mut behind));
        x = conv(b, checkpoint, x, &name, [channels[stage], output, 3], last)?;
    }
    let doubled = b.mul_scalar(x, 2.0)?;
    b.add_scalar(doubled, -1.0)
}

/// Three convolutions and a straight way, summed. diffusers' decoder wants equal widths, so the straight way is the identity.
fn block(b: &mut Builder, checkpoint: &mut Checkpoint, x: ValueId, channels: usize) -> Result<ValueId> {
    let mut y = x;
    for (place, name) in ["conv.0", "conv.2", "conv.4"].into_iter().enumerate() {
        if place > 0 {
            y = b.one(Relu {}, &[y])?;
        }
        y = conv(b, checkpoint, y, name, [channels, channels, 3], true)?;
    }
    let sum = b.add(y, x)?;
    b.one(Relu {}, &[sum])
}
