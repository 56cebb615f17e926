//! Pipelines with random weights, seeded: the sizes of the paper, and smaller ones of the same shape.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use half::f16;
use serde_json::{Map, Value, json};

/// What a pipeline is made of.
pub mod model;

/// Bytes of a shard of the transformer's weights.
pub const SHARD_BYTES: u64 = 2 << 30;

/// One tensor: its name, its shape, and what its numbers are spread around.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Mean of its numbers.
    pub mean: f32,
    /// Their standard deviation.
    pub deviation: f32,
}

impl Tensor {
    fn bytes(&self) -> u64 {
        2 * self.shape.iter().product::<usize>() as u64
    }
}

/// Writes a pipeline folder: the transformer of `config` in f16 and shards, and a text encoder, VAE, scheduler and tokenizer that
/// fit it. `template` is the folder whose other files are taken. With `sparse` the weights are zeros that take no disk.
///
/// # Errors
/// If a file cannot be read or written.
pub fn supernet(config: &model::Config, template: &Path, folder: &Path, sparse: bool) -> std::io::Result<()> {
    let write = |name: &str, value: &Value| -> std::io::Result<()> {
        let path = folder.join(name);
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(path, format!("{value:#}\n"))
    };
    for name in ["model_index.json", "scheduler/scheduler_config.json"] {
        let path = folder.join(name);
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::copy(template.join(name), path)?;
    }
    std::fs::create_dir_all(folder.join("tokenizer"))?;
    for entry in std::fs::read_dir(template.join("tokenizer"))? {
        let entry = entry?;
        std::fs::copy(entry.path(), folder.join("tokenizer").join(entry.file_name()))?;
    }
    write("transformer/config.json", &config.json())?;
    let stem = "diffusion_pytorch_model";
    shards(&config.transformer(), &folder.join("transformer"), stem, sparse)?;
    let text: Map<String, Value> = read_json(&template.join("text_encoder/config.json"))?;
    let (text, tensors) = config.text_encoder(text);
    write("text_encoder/config.json", &Value::Object(text))?;
    one_file(&tensors, &folder.join("text_encoder/model.safetensors"), sparse)?;
    let vae: Map<String, Value> = read_json(&template.join("vae/config.json"))?;
    let (vae, tensors) = config.vae(vae);
    write("vae/config.json", &Value::Object(vae))?;
    one_file(&tensors, &folder.join("vae").join(format!("{stem}.safetensors")), sparse)
}

fn read_json(path: &Path) -> std::io::Result<Map<String, Value>> {
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}

/// One file, or several with an index where they would be too long.
fn shards(tensors: &[Tensor], folder: &Path, stem: &str, sparse: bool) -> std::io::Result<()> {
    let mut shards: Vec<Vec<Tensor>> = vec![Vec::new()];
    let mut bytes = 0;
    for tensor in tensors {
        if bytes > 0 && bytes + tensor.bytes() > SHARD_BYTES {
            shards.push(Vec::new());
            bytes = 0;
        }
        bytes += tensor.bytes();
        shards.last_mut().into_iter().for_each(|shard| shard.push(tensor.clone()));
    }
    if let [only] = &shards[..] {
        return one_file(only, &folder.join(format!("{stem}.safetensors")), sparse);
    }
    let mut map = Map::new();
    let count = shards.len();
    for (number, shard) in shards.iter().enumerate() {
        let name = format!("{stem}-{:05}-of-{count:05}.safetensors", number + 1);
        one_file(shard, &folder.join(&name), sparse)?;
        map.extend(shard.iter().map(|tensor| (tensor.name.clone(), json!(name))));
    }
    let total: u64 = tensors.iter().map(Tensor::bytes).sum();
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    std::fs::write(folder.join(format!("{stem}.safetensors.index.json")), format!("{index:#}\n"))
}

/// A safetensors file: the length of its header, the header, and the tensors behind each other.
fn one_file(tensors: &[Tensor], path: &Path, sparse: bool) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    let mut header = Map::new();
    let mut end = 0;
    for tensor in tensors {
        let start = end;
        end += tensor.bytes();
        let entry = json!({"dtype": "F16", "shape": tensor.shape, "data_offsets": [start, end]});
        header.insert(tensor.name.clone(), entry);
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(text.len() as u64).to_le_bytes())?;
    file.write_all(&text)?;
    if sparse {
        file.flush()?;
        return file.get_ref().set_len(8 + text.len() as u64 + end);
    }
    for tensor in tensors {
        random(tensor, &mut file)?;
    }
    file.flush()
}

/// The tensor's numbers, which depend on its name alone.
fn random(tensor: &Tensor, file: &mut impl Write) -> std::io::Result<()> {
    let seed = tensor
        .name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let mut state = seed;
    // Uniform numbers of that deviation: a sum of them is as good as normal.
    let spread = tensor.deviation * 3f32.sqrt();
    let mut bytes = Vec::with_capacity(1 << 16);
    for _ in 0..tensor.shape.iter().product::<usize>() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = (state >> 40) as f32 / (1u32 << 24) as f32;
        let value = f16::from_f32(tensor.mean + spread * (2.0 * unit - 1.0));
        bytes.extend_from_slice(&value.to_le_bytes());
        if bytes.len() == 1 << 16 {
            file.write_all(&bytes)?;
            bytes.clear();
        }
    }
    file.write_all(&bytes)
}
