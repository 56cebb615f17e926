//! `SnapGenPlusPlusTransformer2DModel`: the three-stage DiT with adaptive sparse self-attention (ASSA), arXiv 2601.08303.

use std::collections::BTreeMap;

use serde::Deserialize;
use snapc_ir::ops::{
    Attention, Conv2d, Gelu, GeluForm, Layout, MapFromTokens, MergeHeads, Pattern, RmsNorm, Rotary, Silu,
    Split, SplitHeads, SplitTokens, TimestepEmbedding, TokensFromMap,
};
use snapc_ir::{
    Builder, DType, Dim, Error, Graph, Grid, Pairs, Result, Stage, Table, TensorType, TokenOrder, ValueId,
    Weight,
};

use crate::checkpoint::Checkpoint;
use crate::config::{check_multiple, check_positive, check_size};

/// One number, or rows and columns.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum SampleSize {
    Square(usize),
    Sides([usize; 2]),
}

/// One subnet of the supernet.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subnet {
    width: usize,
}

/// `transformer/config.json`. Every field counts; an unknown one is an error.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(rename = "_class_name")]
    _class_name: String,
    #[serde(default, rename = "_diffusers_version")]
    _diffusers_version: Option<String>,
    #[serde(default, rename = "_name_or_path")]
    _name_or_path: Option<String>,
    /// Channels of the latent.
    pub in_channels: usize,
    out_channels: usize,
    patch_size: usize,
    sample_size: SampleSize,
    /// The supernet's width.
    pub width: usize,
    /// Numbers of a head.
    pub head_dim: usize,
    /// Query heads that share a key-value head.
    pub q_per_kv: usize,
    num_down_blocks: usize,
    num_mid_blocks: usize,
    num_up_blocks: usize,
    ffn_ratio: usize,
    /// The text encoder's hidden size.
    pub text_dim: usize,
    /// Tokens of text.
    pub max_text_tokens: usize,
    assa_block: usize,
    assa_radius: usize,
    kv_compression: usize,
    rope_theta: f64,
    norm_eps: f64,
    time_freq_dim: usize,
    subnets: BTreeMap<String, Subnet>,
}

impl Config {
    /// Checks that the fields fit each other.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<()> {
        let [rows, cols] = self.latent_size();
        for (field, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("patch_size", self.patch_size),
            ("sample_size", rows),
            ("sample_size", cols),
            ("width", self.width),
            ("head_dim", self.head_dim),
            ("q_per_kv", self.q_per_kv),
            ("ffn_ratio", self.ffn_ratio),
            ("text_dim", self.text_dim),
            ("max_text_tokens", self.max_text_tokens),
            ("assa_block", self.assa_block),
            ("kv_compression", self.kv_compression),
            ("time_freq_dim", self.time_freq_dim),
            ("num_down_blocks", self.num_down_blocks),
            ("num_up_blocks", self.num_up_blocks),
        ] {
            check_size(field, value)?;
        }
        check_positive("rope_theta", self.rope_theta)?;
        check_positive("norm_eps", self.norm_eps)?;
        check_multiple("head_dim", self.head_dim, 4, "rotary pairs on two axes")?;
        check_multiple("time_freq_dim", self.time_freq_dim, 2, "cosines and sines")?;
        if self.num_up_blocks != self.num_down_blocks {
            return Err(Error::input(format!(
                "`num_up_blocks` is {} and `num_down_blocks` {}, expected equally many: each Up block has its skip",
                self.num_up_blocks, self.num_down_blocks
            )));
        }
        if self.in_channels != self.out_channels {
            return Err(Error::input(format!(
                "`out_channels` is {}, expected {} as `in_channels`: the velocity has the latent's shape",
                self.out_channels, self.in_channels
            )));
        }
        if [self.num_down_blocks, self.num_mid_blocks, self.assa_radius].iter().any(|&count| count > 10_000) {
            return Err(Error::input("`num_down_blocks`, `num_mid_blocks` or `assa_radius` passes 10000"));
        }
        self.check_width("width", self.width)?;
        if self.subnets.is_empty() {
            return Err(Error::input(
                "`subnets` is empty, expected at least one, as {\"full\": {\"width\": ..}}",
            ));
        }
        for (name, subnet) in &self.subnets {
            check_size(&format!("subnets.{name}.width"), subnet.width)?;
            self.check_width(&format!("subnets.{name}.width"), subnet.width)?;
        }
        Ok(())
    }

    /// Fails unless heads divide a width and the supernet holds it.
    ///
    /// # Errors
    /// A usage error that names `what`.
    pub fn check_width(&self, what: &str, width: usize) -> Result<()> {
        let unit = self.head_dim * self.q_per_kv;
        let fits = width > 0 && width.is_multiple_of(unit) && width <= self.width;
        if fits {
            return Ok(());
        }
        Err(Error::usage(format!(
            "{what} is {width}, expected a multiple of {unit} (head_dim {} x q_per_kv {}) of at most {}",
            self.head_dim, self.q_per_kv, self.width
        ))
        .help("a narrower network keeps whole heads and whole groups of query heads"))
    }

    /// The latent's default rows and columns.
    pub fn latent_size(&self) -> [usize; 2] {
        match self.sample_size {
            SampleSize::Square(side) => [side, side],
            SampleSize::Sides(sides) => sides,
        }
    }

    /// The widths by subnet name.
    pub fn subnets(&self) -> BTreeMap<String, usize> {
        self.subnets.iter().map(|(name, subnet)| (name.clone(), subnet.width)).collect()
    }

    /// Tokens of the first stage: what dynamic shifting calls the image's sequence length.
    pub fn tokens(&self, latent: [usize; 2]) -> usize {
        (latent[0] / self.patch_size) * (latent[1] / self.patch_size)
    }

    /// The token grid of a latent.
    ///
    /// # Errors
    /// If patches, downsampling, key-value compression or ASSA's tiles do not divide it.
    pub fn grid(&self, latent: [usize; 2]) -> Result<[usize; 2]> {
        for side in latent {
            check_size("a side of the latent", side)?;
            let tokens = side / self.patch_size;
            let needed =
                [(2, "downsample"), (self.kv_compression, "kv_compression"), (self.assa_block, "assa_block")];
            let broken = needed.iter().find(|(unit, _)| !tokens.is_multiple_of(*unit) || tokens == 0);
            if !side.is_multiple_of(self.patch_size) {
                return Err(Error::usage(format!(
                    "a latent of {} x {} cannot be cut into patches of {}",
                    latent[0], latent[1], self.patch_size
                )));
            }
            if let Some((unit, why)) = broken {
                return Err(Error::usage(format!(
                    "a latent of {} x {} has {tokens} tokens on a side, expected a multiple of {unit} ({why})",
                    latent[0], latent[1]
                ))
                .help(format!("sides that are multiples of {} latents fit", self.side_unit())));
            }
        }
        Ok(latent.map(|side| side / self.patch_size))
    }

    /// A side of the latent must be a multiple of this.
    pub fn side_unit(&self) -> usize {
        let lcm = |a: usize, b: usize| a / gcd(a, b) * b;
        lcm(lcm(2, self.kv_compression), self.assa_block) * self.patch_size
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The supernet's graph: `latent [B, C, H, W]`, `timestep [B]`, `text [B, L, text_dim]`, `text_mask [B, L]` to `velocity [B, C, H, W]`.
///
/// # Errors
/// If the size does not divide, or a tensor's groups cannot be told.
pub fn import(
    config: &Config,
    checkpoint: &mut Checkpoint,
    batch: usize,
    latent: [usize; 2],
) -> Result<Graph> {
    let grid = config.grid(latent)?;
    let mut b = Builder::new("transformer", Stage::Supernet);
    let float = |shape: &[usize]| TensorType::new(DType::F32, shape);
    let x = b.input("latent", float(&[batch, config.in_channels, latent[0], latent[1]]));
    let timestep = b.input("timestep", float(&[batch]));
    let text = b.input("text", float(&[batch, config.max_text_tokens, config.text_dim]));
    let mask = b.input("text_mask", float(&[batch, config.max_text_tokens]));
    let mut net = Net { b: &mut b, checkpoint, config };
    let velocity = net.forward(x, timestep, text, mask, grid)?;
    b.output("velocity", velocity);
    b.finish()
}

/// What every block is given beside its tokens.
#[derive(Clone, Copy)]
struct Context {
    /// The six modulations that all blocks share, `[B, 1, 6w]`; the two scales as factors, 1 + scale.
    modulation: ValueId,
    /// The projected text, `[B, L, w]`.
    text: ValueId,
    mask: ValueId,
}

struct Net<'a, 'b> {
    b: &'a mut Builder,
    checkpoint: &'a mut Checkpoint<'b>,
    config: &'a Config,
}

impl Net<'_, '_> {
    fn forward(
        &mut self,
        latent: ValueId,
        timestep: ValueId,
        text: ValueId,
        mask: ValueId,
        grid: [usize; 2],
    ) -> Result<ValueId> {
        let config = self.config;
        let (width, hidden) = (config.width, Dim::elastic(config.width));
        let mut x = self.patch_embed(latent)?;
        let e = self.time_embed(timestep)?;
        let activated = self.b.one(Silu {}, &[e])?;
        let modulation = self.linear("time_mod", activated, Dim::chunked(6, width), hidden, true)?;
        let modulation = self.b.scoped("time_mod", |b| {
            let factors = b.weight(scale_offsets(width))?;
            b.add(modulation, factors)
        })?;
        let text = self.text_proj(text)?;
        let context = Context { modulation, text, mask };

        let mut skips = Vec::new();
        for block in 0..config.num_down_blocks {
            x = self.block(&format!("down.{block}"), x, context, grid, true)?;
            skips.push(x);
        }
        let map = self.b.scoped("downsample", |b| b.one(MapFromTokens { grid }, &[x]))?;
        let map = self.conv("downsample", map, [hidden, hidden], 2, true)?;
        x = self.b.scoped("downsample", |b| b.one(TokensFromMap {}, &[map]))?;
        let half = grid.map(|side| side / 2);
        for block in 0..config.num_mid_blocks {
            x = self.block(&format!("mid.{block}"), x, context, half, false)?;
        }
        x = self.linear("upsample", x, Dim::chunked(4, width), hidden, true)?;
        x = self.b.scoped("upsample", |b| b.one(SplitTokens { grid: half, factor: 2 }, &[x]))?;
        for block in 0..config.num_up_blocks {
            let path = format!("up.{block}");
            let skip = skips[config.num_down_blocks - 1 - block];
            let both = self.b.scoped(&format!("{path}.skip"), |b| b.concat(&[x, skip], 2))?;
            x = self.linear(&format!("{path}.skip"), both, hidden, Dim::chunked(2, width), true)?;
            x = self.block(&path, x, context, grid, true)?;
        }
        self.proj_out(x, e, grid)
    }

    fn patch_embed(&mut self, latent: ValueId) -> Result<ValueId> {
        let patch = self.config.patch_size;
        let dims = [Dim::elastic(self.config.width), Dim::fixed(self.config.in_channels)];
        let map = self.conv("patch_embed", latent, dims, patch, true)?;
        self.b.scoped("patch_embed", |b| b.one(TokensFromMap {}, &[map]))
    }

    fn time_embed(&mut self, timestep: ValueId) -> Result<ValueId> {
        let dim = self.config.time_freq_dim;
        let hidden = Dim::elastic(self.config.width);
        let sinusoid = self.b.scoped("time_embed", |b| b.one(TimestepEmbedding { dim }, &[timestep]))?;
        self.two_linears("time_embed", sinusoid, Dim::fixed(dim), hidden)
    }

    fn text_proj(&mut self, text: ValueId) -> Result<ValueId> {
        let normed = self.rms("text_proj", text)?;
        let hidden = Dim::elastic(self.config.width);
        self.two_linears("text_proj", normed, Dim::fixed(self.config.text_dim), hidden)
    }

    /// `path.0`, silu, `path.2`.
    fn two_linears(&mut self, path: &str, x: ValueId, input: Dim, hidden: Dim) -> Result<ValueId> {
        let first = self.linear(&format!("{path}.0"), x, hidden, input, true)?;
        let bent = self.b.scoped(path, |b| b.one(Silu {}, &[first]))?;
        self.linear(&format!("{path}.2"), bent, hidden, hidden, true)
    }

    fn proj_out(&mut self, x: ValueId, e: ValueId, grid: [usize; 2]) -> Result<ValueId> {
        let config = self.config;
        let table = self.weight("out_mod", vec![Dim::fixed(2), Dim::elastic(config.width)])?;
        let normed = self.rms("out_mod", x)?;
        let modulated = self.b.scoped("out_mod", |b| {
            let both = b.add(table, e)?;
            let parts = b.op(Split { axis: 1, parts: 2 }, &[both])?;
            let factor = b.add_scalar(parts[1], 1.0)?;
            modulate(b, normed, parts[0], factor)
        })?;
        let patch = config.patch_size;
        let output = Dim::fixed(patch * patch * config.out_channels);
        let tokens = self.linear("proj_out", modulated, output, Dim::elastic(config.width), true)?;
        self.b.scoped("proj_out", |b| {
            let pixels = b.one(SplitTokens { grid, factor: patch }, &[tokens])?;
            b.one(MapFromTokens { grid: grid.map(|side| side * patch) }, &[pixels])
        })
    }

    fn block(
        &mut self,
        path: &str,
        x: ValueId,
        context: Context,
        grid: [usize; 2],
        sparse: bool,
    ) -> Result<ValueId> {
        let mut table =
            self.weight(&format!("{path}.mod_table"), vec![Dim::fixed(6), Dim::elastic(self.config.width)])?;
        // Read as one row of six chunks, so that one sum serves all six modulations.
        if let Some(weight) = self.b.as_weight(table) {
            let mut row = weight.clone();
            row.name += ".row";
            row.reshape(vec![Dim::chunked(6, self.config.width)])?;
            table = self.b.weight(row)?;
        }
        let parts = self.b.scoped(&format!("{path}.mod_table"), |b| {
            let sum = b.add(context.modulation, table)?;
            b.op(Split { axis: 2, parts: 6 }, &[sum])
        })?;
        let normed = self.rms(path, x)?;
        let modulated = self.b.scoped(path, |b| modulate(b, normed, parts[0], parts[1]))?;
        let mixed = self.self_attn(&format!("{path}.self_attn"), modulated, grid, sparse)?;
        let x = self.b.scoped(path, |b| gated_add(b, x, parts[2], mixed))?;

        let normed = self.rms(path, x)?;
        let mixed = self.cross_attn(&format!("{path}.cross_attn"), normed, context)?;
        let x = self.b.scoped(path, |b| b.add(x, mixed))?;

        let normed = self.rms(path, x)?;
        let modulated = self.b.scoped(path, |b| modulate(b, normed, parts[3], parts[4]))?;
        let changed = self.ffn(&format!("{path}.ffn"), modulated)?;
        self.b.scoped(path, |b| gated_add(b, x, parts[5], changed))
    }

    fn ffn(&mut self, path: &str, x: ValueId) -> Result<ValueId> {
        let (hidden, wide) =
            (Dim::elastic(self.config.width), Dim::elastic(self.config.width * self.config.ffn_ratio));
        let up = self.linear(&format!("{path}.0"), x, wide, hidden, true)?;
        let bent = self.b.scoped(path, |b| b.one(Gelu { form: GeluForm::Tanh }, &[up]))?;
        self.linear(&format!("{path}.2"), bent, hidden, wide, true)
    }

    fn self_attn(&mut self, path: &str, x: ValueId, grid: [usize; 2], sparse: bool) -> Result<ValueId> {
        let config = self.config;
        let q = self.head(path, "q", x, true)?;
        let k = self.head(path, "k", x, true)?;
        let v = self.head(path, "v", x, false)?;
        let places = places(grid, 1);
        let q = self.rotary(path, q, places)?;
        let turned = self.rotary(path, k, places)?;
        let mixed = if sparse {
            let (tile, radius, order) = (config.assa_block, config.assa_radius, TokenOrder::default());
            let neighborhood = Pattern::Neighborhood { grid, tile, radius, order };
            let local = self.attention(&format!("{path}.local"), neighborhood, &[q, turned, v])?;
            let global = self.global(path, q, k, v, grid)?;
            self.gate(path, x, global, local)?
        } else {
            self.attention(path, Pattern::Dense, &[q, turned, v])?
        };
        self.output(path, mixed)
    }

    /// ASSA's global half: all compressed keys, which are turned at the centres of their windows.
    fn global(
        &mut self,
        path: &str,
        q: ValueId,
        k: ValueId,
        v: ValueId,
        grid: [usize; 2],
    ) -> Result<ValueId> {
        let s = self.config.kv_compression;
        let small = grid.map(|side| side / s);
        let k = self.kv_conv(path, "kv_conv_k", k, grid)?;
        let v = self.kv_conv(path, "kv_conv_v", v, grid)?;
        let places = places(small, s);
        let k = self.rotary(path, k, places)?;
        self.attention(&format!("{path}.global"), Pattern::Dense, &[q, k, v])
    }

    /// The groups are read off the weight: its input axis is one number, one head, or all heads; only then is it a hidden axis.
    fn kv_conv(&mut self, path: &str, name: &str, x: ValueId, grid: [usize; 2]) -> Result<ValueId> {
        let (head_dim, s) = (self.config.head_dim, self.config.kv_compression);
        let all = self.config.width / self.config.q_per_kv;
        let name = format!("{path}.{name}");
        let input = match self.checkpoint.shape(&format!("{name}.weight")).and_then(|shape| shape.get(1)) {
            Some(&1) => Dim::fixed(1),
            Some(&part) if part == all && part != head_dim => Dim::elastic(all),
            _ => Dim::fixed(head_dim),
        };
        let map = self.b.scoped(&name, |b| {
            let merged = b.one(MergeHeads {}, &[x])?;
            b.one(MapFromTokens { grid }, &[merged])
        })?;
        let map = self.conv(&name, map, [Dim::elastic(all), input], s, false)?;
        self.b.scoped(&name, |b| {
            let tokens = b.one(TokensFromMap {}, &[map])?;
            b.one(SplitHeads { head_dim }, &[tokens])
        })
    }

    /// `a * global + (1 - a) * local`, one `a` a token and head: written as `local + a * (global - local)`.
    fn gate(&mut self, path: &str, x: ValueId, global: ValueId, local: ValueId) -> Result<ValueId> {
        let config = self.config;
        let heads = Dim::elastic(config.width / config.head_dim);
        let path = format!("{path}.gate");
        let logits = self.linear(&path, x, heads, Dim::elastic(config.width), true)?;
        self.b.scoped(&path, |b| {
            let a = b.sigmoid(logits)?;
            let a = b.one(SplitHeads { head_dim: 1 }, &[a])?;
            let difference = b.sub(global, local)?;
            gated_add(b, local, a, difference)
        })
    }

    fn cross_attn(&mut self, path: &str, x: ValueId, context: Context) -> Result<ValueId> {
        let q = self.head(path, "q", x, true)?;
        let k = self.head(path, "k", context.text, true)?;
        let v = self.head(path, "v", context.text, false)?;
        let mixed = self.attention(path, Pattern::Dense, &[q, k, v, context.mask])?;
        self.output(path, mixed)
    }

    /// One of `q`, `k`, `v`: `[B, N, heads, d]`, normed over d where `norm` says so.
    fn head(&mut self, path: &str, name: &str, x: ValueId, norm: bool) -> Result<ValueId> {
        let config = self.config;
        let size = if name == "q" { config.width } else { config.width / config.q_per_kv };
        let (head_dim, eps) = (config.head_dim, config.norm_eps as f32);
        let path = format!("{path}.{name}");
        let flat = self.linear(&path, x, Dim::elastic(size), Dim::elastic(config.width), false)?;
        let heads = self.b.scoped(&path, |b| b.one(SplitHeads { head_dim }, &[flat]))?;
        if !norm {
            return Ok(heads);
        }
        let path = format!("{path}_norm");
        let weight = self.weight(&path, vec![Dim::fixed(head_dim)])?;
        self.b.scoped(&path, |b| b.one(RmsNorm { eps }, &[heads, weight]))
    }

    fn output(&mut self, path: &str, mixed: ValueId) -> Result<ValueId> {
        let hidden = Dim::elastic(self.config.width);
        let merged = self.b.scoped(path, |b| b.one(MergeHeads {}, &[mixed]))?;
        self.linear(&format!("{path}.o"), merged, hidden, hidden, false)
    }

    fn attention(&mut self, path: &str, pattern: Pattern, operands: &[ValueId]) -> Result<ValueId> {
        let scale = 1.0 / (self.config.head_dim as f32).sqrt();
        self.b.scoped(path, |b| b.one(Attention { pattern, scale }, operands))
    }

    fn rotary(&mut self, path: &str, x: ValueId, grid: Grid) -> Result<ValueId> {
        let theta = self.config.rope_theta as f32;
        self.b.scoped(&format!("{path}.rotary"), |b| {
            b.one(Rotary { theta, grid, pairs: Pairs::default() }, &[x])
        })
    }

    fn rms(&mut self, path: &str, x: ValueId) -> Result<ValueId> {
        let eps = self.config.norm_eps as f32;
        self.b.scoped(path, |b| b.one(RmsNorm { eps }, &[x]))
    }

    fn weight(&mut self, name: &str, dims: Vec<Dim>) -> Result<ValueId> {
        self.checkpoint.weight(self.b, name, dims)
    }

    fn linear(&mut self, path: &str, x: ValueId, output: Dim, input: Dim, bias: bool) -> Result<ValueId> {
        let weight = self.weight(&format!("{path}.weight"), vec![output, input])?;
        let bias = match bias {
            true => Some(self.weight(&format!("{path}.bias"), vec![output])?),
            false => None,
        };
        self.b.scoped(path, |b| b.linear(x, weight, bias))
    }

    /// A convolution whose kernel is its stride.
    fn conv(
        &mut self,
        path: &str,
        x: ValueId,
        [output, input]: [Dim; 2],
        side: usize,
        bias: bool,
    ) -> Result<ValueId> {
        let dims = vec![output, input, Dim::fixed(side), Dim::fixed(side)];
        let mut operands = vec![x, self.weight(&format!("{path}.weight"), dims)?];
        if bias {
            operands.push(self.weight(&format!("{path}.bias"), vec![output])?);
        }
        self.b.scoped(path, |b| b.one(Conv2d { stride: side, padding: 0, layout: Layout::Nchw }, &operands))
    }
}

/// One in the chunks of scale1 and scale2, zero in the others: added once, it saves `1 +` in every block.
fn scale_offsets(width: usize) -> Weight {
    let table = Table::ChunkOnes { chunks: 6, size: width, ones: 0b01_0010 };
    let mut weight = Weight::table("table.scale_offsets", table);
    weight.dims = vec![Dim::chunked(6, width)];
    weight
}

/// `x * factor + shift`.
fn modulate(b: &mut Builder, x: ValueId, shift: ValueId, factor: ValueId) -> Result<ValueId> {
    let scaled = b.mul(x, factor)?;
    b.add(scaled, shift)
}

/// `x + gate * change`.
fn gated_add(b: &mut Builder, x: ValueId, gate: ValueId, change: ValueId) -> Result<ValueId> {
    let part = b.mul(gate, change)?;
    b.add(x, part)
}

/// Where the windows of side `side` stand: at their centres.
fn places(grid: [usize; 2], side: usize) -> Grid {
    let (start, stride) = ((side as f32 - 1.0) / 2.0, side as f32);
    Grid { rows: grid[0], cols: grid[1], start, stride, order: TokenOrder::default() }
}
