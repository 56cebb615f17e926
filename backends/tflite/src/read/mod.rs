//! A file back into a graph, by TFLite's schema and the operators' kernels and not by the writer. What could be read in two ways, or
//! is not of snapc's making, is an error.

mod encoded;
mod flat;
mod operators;
mod products;
mod tensors;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use snapc_ir::{Builder, Context, Error, Graph, Place, Result, Stage};
use snapc_weights::{Region, Store};

use crate::pack::LONGEST;
use crate::schema::{
    ALIGNMENT, BUILTINS, Builtin, FILE_IDENTIFIER, MIN_RUNTIME, SIGNATURE, TAIL, VERSION, slot,
};
use encoded::Blockwise;
use flat::Table;
use operators::{Operator, Reader};
use tensors::{Buffer, Tensor};

/// The fields of `Model` that snapc writes.
const MODEL: &[u16] = &[
    slot::model::VERSION,
    slot::model::OPERATOR_CODES,
    slot::model::SUBGRAPHS,
    slot::model::DESCRIPTION,
    slot::model::BUFFERS,
    slot::model::METADATA,
    slot::model::SIGNATURE_DEFS,
];
const BUFFER: &[u16] = &[slot::buffer::DATA, slot::buffer::OFFSET, slot::buffer::SIZE];

/// The most operands and results that a kernel of ours takes.
const MOST_OPERANDS: usize = 8;

/// A signature that was read back.
pub struct ReadSignature {
    /// Its key.
    pub key: String,
    /// The graph that it runs.
    pub graph: Graph,
    /// Where the weights are.
    pub store: Store,
}

/// Reads a file of one signature, `serving_default`.
///
/// # Errors
/// As [`read_signatures`]; if the file has other signatures.
pub fn read_only(path: &Path) -> Result<(Graph, Store)> {
    let mut found = read_signatures(path)?;
    match found.pop() {
        Some(ReadSignature { key, graph, store }) if found.is_empty() && key == SIGNATURE => {
            Ok((graph, store))
        }
        last => Err(other_signatures(path, found.iter().chain(&last), "expected serving_default alone")),
    }
}

/// Reads one signature of a file; all others are checked too.
///
/// # Errors
/// As [`read_signatures`]; if there is no such signature.
pub fn read_signature(path: &Path, key: &str) -> Result<(Graph, Store)> {
    let mut found = read_signatures(path)?;
    match found.iter().position(|read| read.key == key) {
        Some(number) => {
            let ReadSignature { graph, store, .. } = found.swap_remove(number);
            Ok((graph, store))
        }
        None => Err(other_signatures(path, &found, &format!("expected {key} among them"))),
    }
}

fn other_signatures<'a>(
    path: &Path,
    found: impl IntoIterator<Item = &'a ReadSignature>,
    expected: &str,
) -> Error {
    let keys: Vec<&str> = found.into_iter().map(|read| read.key.as_str()).collect();
    Error::input(format!("the signatures are {}, {expected}", keys.join(", ")))
        .at(Place::File(path.to_path_buf()))
        .help("does manifest.json belong to this file? compile again")
}

/// Reads all signatures of a file, in its order.
///
/// # Errors
/// If it is missing or damaged, breaks the format, or uses more of it than snapc writes.
pub fn read_signatures(path: &Path) -> Result<Vec<ReadSignature>> {
    let place = || Place::File(path.to_path_buf());
    let (bytes, length) = flatbuffer(path)?;
    let found = read_model(&bytes, length).at(place)?;
    found
        .into_iter()
        .map(|(key, graph, regions, blockwise)| {
            let regions = encoded::with_scales(path, regions, &blockwise)?;
            Ok(ReadSignature { key, graph, store: Store::from_regions(path, regions)? })
        })
        .collect()
}

/// The bytes before the first weight, and the length of the file. Where the first weight is stands among them, so some are read
/// before that is known.
fn flatbuffer(path: &Path) -> Result<(Vec<u8>, u64)> {
    let place = || Place::File(path.to_path_buf());
    let mut file = File::open(path).map_err(|error| Error::io("open", path, &error))?;
    let length = file.metadata().map_err(|error| Error::io("read", path, &error))?.len();
    let mut bytes = Vec::new();
    for most in [1 << 20, 1 << 26, LONGEST] {
        let more = most.min(length).saturating_sub(bytes.len() as u64);
        (&mut file).take(more).read_to_end(&mut bytes).map_err(|error| Error::io("read", path, &error))?;
        let end = match first_weight(&bytes) {
            Err(_) if (bytes.len() as u64) < length && most < LONGEST => continue,
            found => found.at(place)?.unwrap_or(length.saturating_sub(TAIL)),
        };
        if end > length.min(LONGEST) {
            return Err(
                Error::input(format!("the flatbuffer ends at byte {end}, the file has {length}")).at(place())
            );
        }
        let more = end.saturating_sub(bytes.len() as u64);
        file.take(more).read_to_end(&mut bytes).map_err(|error| Error::io("read", path, &error))?;
        bytes.truncate(end as usize);
        return Ok((bytes, length));
    }
    Err(Error::bug("the last step reads or fails"))
}

/// Where the first buffer behind the flatbuffer starts.
fn first_weight(bytes: &[u8]) -> Result<Option<u64>> {
    let model = Table::root(bytes, "Model", FILE_IDENTIFIER, MODEL)?;
    let buffers = model.tables(slot::model::BUFFERS, "Buffer", BUFFER)?;
    let offsets: Vec<u64> =
        buffers.iter().map(|buffer| buffer.u64(slot::buffer::OFFSET)).collect::<Result<_>>()?;
    Ok(offsets.into_iter().filter(|&offset| offset > 1).min())
}

/// The key, the graph and the places of the weights of each signature, and which of those have scales in the file.
type Signatures = Vec<(String, Graph, Vec<Region>, Vec<Blockwise>)>;

fn read_model(bytes: &[u8], length: u64) -> Result<Signatures> {
    let model = Table::root(bytes, "Model", FILE_IDENTIFIER, MODEL)?;
    let version = model.u32(slot::model::VERSION)?;
    require(version == VERSION, || format!("the schema's version is {version}, expected {VERSION}"))?;
    let mut buffers = Vec::new();
    for buffer in model.tables(slot::model::BUFFERS, "Buffer", BUFFER)? {
        buffers.push(Buffer::read(&buffer)?);
    }
    check_places(&buffers, bytes.len() as u64, length)?;
    let mut used = vec![0usize; buffers.len()];
    check_metadata(&model, &buffers, &mut used)?;

    let codes = operator_codes(&model)?;
    let known = [
        slot::subgraph::TENSORS,
        slot::subgraph::INPUTS,
        slot::subgraph::OUTPUTS,
        slot::subgraph::OPERATORS,
        slot::subgraph::NAME,
    ];
    let subgraphs = model.tables(slot::model::SUBGRAPHS, "SubGraph", &known)?;
    let mut tensors = Vec::new();
    for subgraph in &subgraphs {
        let mut own = Vec::new();
        for table in subgraph.tables(slot::subgraph::TENSORS, "Tensor", tensors::KNOWN)? {
            let tensor = Tensor::read(&table, &buffers)?;
            used[tensor.buffer] += 1;
            own.push(tensor);
        }
        tensors.push(own);
    }
    if let Some(unused) = used.iter().skip(1).position(|&count| count == 0) {
        return Err(Error::input(format!("nothing uses buffer {}", unused + 1)));
    }
    let signatures = signatures(&model, &subgraphs)?;
    let mut found = Vec::new();
    for ((subgraph, tensors), (key, [inputs, outputs])) in subgraphs.iter().zip(&tensors).zip(signatures) {
        let operators = operators(subgraph, &codes)?;
        let builder = Builder::new(subgraph.text(slot::subgraph::NAME)?, Stage::Legal("tflite".to_string()));
        let read = Reader::new(builder, tensors, &buffers).graph(&inputs, &outputs, &operators);
        let (graph, regions, blockwise) = match subgraphs.len() {
            1 => read?,
            // Names of nodes and tensors are those of several graphs.
            _ => read.at(|| Place::Node(format!("signature {key}")))?,
        };
        found.push((key.to_string(), graph, regions, blockwise));
    }
    Ok(found)
}

/// Weights lie behind each other and the flatbuffer, aligned, with zeros to the end of the file. Two may share all their bytes, but
/// not some.
fn check_places(buffers: &[Buffer], start: u64, length: u64) -> Result<()> {
    let first = buffers.first().ok_or_else(|| Error::input("there is no buffer"))?;
    require(matches!(first, Buffer::Empty), || "the first buffer is not empty".to_string())?;
    let mut places: Vec<(u64, u64)> = Vec::new();
    for (number, buffer) in buffers.iter().enumerate().skip(1) {
        match buffer {
            Buffer::Empty => return Err(Error::input(format!("buffer {number} is empty"))),
            Buffer::Inline(_) => {}
            Buffer::Outside { offset, size } => {
                require(offset % ALIGNMENT == 0, || format!("buffer {number} starts at byte {offset}"))?;
                places.push((*offset, *size));
            }
        }
    }
    require(start.is_multiple_of(ALIGNMENT), || format!("the flatbuffer ends at byte {start}"))?;
    places.sort_unstable();
    places.dedup();
    let mut end = start;
    for (offset, size) in places {
        require(offset >= end, || format!("two buffers share some of their bytes at {offset}"))?;
        require(offset - end < ALIGNMENT, || format!("nothing names the bytes from {end} to {offset}"))?;
        end = offset.checked_add(size).ok_or_else(|| Error::input("a buffer ends behind all files"))?;
    }
    let expected = end.checked_add(TAIL);
    require(expected == Some(length), || {
        format!(
            "the weights and {TAIL} zeros end at byte {}, the file has {length}",
            end.saturating_add(TAIL)
        )
    })
}

fn check_metadata(model: &Table, buffers: &[Buffer], used: &mut [usize]) -> Result<()> {
    let known = [slot::metadata::NAME, slot::metadata::BUFFER];
    let mut names: Vec<&str> = Vec::new();
    for entry in model.tables(slot::model::METADATA, "Metadata", &known)? {
        let name = entry.text(slot::metadata::NAME)?;
        require(!names.contains(&name), || format!("the metadata has {name} twice"))?;
        names.push(name);
        let number = entry.u32(slot::metadata::BUFFER)? as usize;
        let Some(Buffer::Inline(value)) = buffers.get(number) else {
            return Err(Error::input(format!("the metadata {name} does not stand in the flatbuffer")));
        };
        require(std::str::from_utf8(value).is_ok(), || format!("the metadata {name} is no text"))?;
        used[number] += 1;
    }
    require(names.contains(&MIN_RUNTIME), || format!("the metadata has no {MIN_RUNTIME}"))
}

fn operator_codes(model: &Table) -> Result<Vec<&'static Builtin>> {
    use slot::operator_code::{BUILTIN_CODE, DEPRECATED_BUILTIN_CODE, VERSION};
    let known = [BUILTIN_CODE, DEPRECATED_BUILTIN_CODE, VERSION];
    let mut codes = Vec::new();
    for table in model.tables(slot::model::OPERATOR_CODES, "OperatorCode", &known)? {
        let (code, version) = (table.i32(BUILTIN_CODE)?, table.i32(VERSION)?);
        let narrow = i32::from(table.i8(DEPRECATED_BUILTIN_CODE)?);
        require(narrow == code.min(127), || format!("an operator has the codes {narrow} and {code}"))?;
        let named = BUILTINS.iter().find(|builtin| builtin.code == code);
        let named = named.ok_or_else(|| Error::input(format!("snapc writes no operator of code {code}")))?;
        let found = BUILTINS.iter().find(|builtin| (builtin.code, builtin.version) == (code, version));
        let found = found.ok_or_else(|| {
            Error::input(format!("{} of version {version} is not what snapc writes", named.name))
        })?;
        codes.push(*found);
    }
    Ok(codes)
}

/// Inputs and outputs: their names in the signature, and their tensors.
type Ports<'a> = [Vec<(&'a str, usize)>; 2];

/// The signatures, one for each subgraph in its order: key and ports.
fn signatures<'a>(model: &Table<'a>, subgraphs: &[Table]) -> Result<Vec<(&'a str, Ports<'a>)>> {
    use slot::signature::{INPUTS, KEY, OUTPUTS, SUBGRAPH};
    let signatures =
        model.tables(slot::model::SIGNATURE_DEFS, "SignatureDef", &[INPUTS, OUTPUTS, KEY, SUBGRAPH])?;
    require(!subgraphs.is_empty() && signatures.len() == subgraphs.len(), || {
        format!("there are {} signatures and {} subgraphs", signatures.len(), subgraphs.len())
    })?;
    let mut found: Vec<(&str, Ports)> = Vec::new();
    for (number, (signature, subgraph)) in signatures.iter().zip(subgraphs).enumerate() {
        let (key, of) = (signature.text(KEY)?, signature.u32(SUBGRAPH)?);
        let name = subgraph.text(slot::subgraph::NAME)?;
        let behind = key.strip_prefix(name).filter(|behind| behind.is_empty() || behind.starts_with('_'));
        let only = signatures.len() == 1 && key == SIGNATURE;
        require((only || behind.is_some()) && usize::try_from(of) == Ok(number), || {
            format!("the signature is {key} of subgraph {of}, which is {name} of number {number}")
        })?;
        require(found.iter().all(|other| other.0 != key), || format!("two signatures are {key}"))?;
        found.push((key, ports(signature, subgraph)?));
    }
    Ok(found)
}

fn ports<'a>(signature: &Table<'a>, subgraph: &Table) -> Result<Ports<'a>> {
    use slot::signature::{INPUTS, OUTPUTS};
    let maps = |side: u16, of_subgraph: u16| -> Result<Vec<(&'a str, usize)>> {
        let known = [slot::tensor_map::NAME, slot::tensor_map::TENSOR];
        let mut ports = Vec::new();
        for map in signature.tables(side, "TensorMap", &known)? {
            ports.push((map.text(slot::tensor_map::NAME)?, map.u32(slot::tensor_map::TENSOR)? as usize));
        }
        let listed = subgraph.ints(of_subgraph, ports.len())?;
        let same = listed.len() == ports.len()
            && ports.iter().zip(listed).all(|(port, tensor)| usize::try_from(tensor) == Ok(port.1));
        require(same, || "the signature names other tensors than the subgraph".to_string())?;
        Ok(ports)
    };
    Ok([maps(INPUTS, slot::subgraph::INPUTS)?, maps(OUTPUTS, slot::subgraph::OUTPUTS)?])
}

fn operators<'a>(subgraph: &Table<'a>, codes: &[&'static Builtin]) -> Result<Vec<Operator<'a>>> {
    use slot::operator::{INPUTS, OPCODE_INDEX, OPTIONS, OPTIONS_TYPE, OUTPUTS};
    let known = [OPCODE_INDEX, INPUTS, OUTPUTS, OPTIONS_TYPE, OPTIONS];
    let mut operators = Vec::new();
    for table in subgraph.tables(slot::subgraph::OPERATORS, "Operator", &known)? {
        let index = table.u32(OPCODE_INDEX)?;
        let builtin = codes.get(index as usize).copied();
        let builtin = builtin.ok_or_else(|| Error::input(format!("there is no operator code {index}")))?;
        let kind = table.u8(OPTIONS_TYPE)?;
        require(kind == builtin.options, || format!("{} has options of type {kind}", builtin.name))?;
        let options = table.table(OPTIONS, builtin.name, operators::options(builtin))?;
        require(options.is_some() == (kind != 0), || {
            format!("{} has a type of options alone", builtin.name)
        })?;
        let (inputs, outputs) = (table.ints(INPUTS, MOST_OPERANDS)?, table.ints(OUTPUTS, MOST_OPERANDS)?);
        operators.push(Operator { builtin, inputs, outputs, options });
    }
    Ok(operators)
}

/// Fails with words when a condition does not hold.
fn require(condition: bool, message: impl FnOnce() -> String) -> Result<()> {
    if condition { Ok(()) } else { Err(Error::input(message())) }
}
