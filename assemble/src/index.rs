use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::{Component, Path};

use crate::sha256::Sha256;

/// The first line of an index; the number is raised when the format changes.
const HEADER: &str = "snapc-elastic 1";
/// More loops than any layout of a weight has.
const MOST_LOOPS: usize = 16;

/// What an elastic store holds, the narrowest subnet first. Its text form is documented in `docs/elastic.md`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// The subnets; each is the one before it plus bands.
    pub subnets: Vec<Subnet>,
}

/// One subnet: what a device downloads for it on top of the narrower ones, and what comes of that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subnet {
    /// Its name.
    pub name: String,
    /// The files that hold its own bytes, one behind the other.
    pub chunks: Vec<Chunk>,
    /// The files of its folder.
    pub files: Vec<FileEntry>,
}

/// A file of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Its name in the store's folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
}

/// A file of a subnet's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Its path in the folder, with `/` between names.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
    /// What it is made of, from its start to its end.
    pub pieces: Vec<Piece>,
}

/// A run of bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The next so many bytes of the subnet's own chunks.
    Own(u64),
    /// Bytes of the narrower subnet and own ones between them.
    Weave(Weave),
}

impl Piece {
    /// Its length.
    pub fn bytes(&self) -> u64 {
        match self {
            Piece::Own(bytes) => *bytes,
            Piece::Weave(weave) => weave.bytes,
        }
    }

    /// How many of its bytes lie in the subnet's own chunks.
    pub fn own(&self) -> u64 {
        match self {
            Piece::Own(bytes) => *bytes,
            Piece::Weave(weave) => weave.bytes - weave.narrower(),
        }
    }
}

/// A weight of which a part is the narrower subnet's weight: its rows are longer, and there are more. The narrower one's bytes stand in
/// runs, wherever the loops lead; the bytes between the runs and behind the last one are the subnet's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weave {
    /// The narrower subnet's file, by number.
    pub file: usize,
    /// Where its weight begins in that file.
    pub offset: u64,
    /// The length of the wider weight.
    pub bytes: u64,
    /// The bytes of a run.
    pub run: u64,
    /// The outermost loop first: how many turns it makes, and how many bytes of the wider weight a turn is long. Run `(i, j, ..)` begins at
    /// `i * stride + j * stride + ..`.
    pub loops: Vec<(u64, u64)>,
}

impl Weave {
    /// The length of the narrower weight.
    pub fn narrower(&self) -> u64 {
        self.loops.iter().fold(self.run, |bytes, (count, _)| bytes * count)
    }

    /// What stands at a byte of the wider weight: how many of the narrower's bytes stand before it, whether it is one of them, and how many
    /// bytes go on like that, at least.
    pub fn at(&self, position: u64) -> (u64, bool, u64) {
        let (mut before, mut inner) = (0, self.narrower());
        let (mut rest, mut end) = (position, self.bytes);
        for (count, stride) in &self.loops {
            inner /= count;
            let turn = rest / stride;
            if turn >= *count {
                return (before + inner * count, false, end - rest);
            }
            before += turn * inner;
            rest -= turn * stride;
            end = (end - turn * stride).min(*stride);
        }
        match rest < self.run {
            true => (before + rest, true, self.run - rest),
            false => (before + self.run, false, end - rest),
        }
    }

    /// The bytes of the narrower weight that stand in some bytes of this one.
    pub fn taken(&self, range: Range<u64>) -> Range<u64> {
        self.at(range.start).0..self.at(range.end).0
    }

    /// Some bytes of the wider weight, cut where runs begin and end; whether each stretch is of the narrower one.
    pub fn stretches(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, bool)> {
        let mut start = range.start;
        std::iter::from_fn(move || {
            let at = start;
            (at < range.end).then(|| {
                let (_, is_narrower, length) = self.at(at);
                start = range.end.min(at + length);
                (at..start, is_narrower)
            })
        })
    }

    /// Whether runs follow each other without touching, the last one inside the weight.
    fn is_sound(&self) -> bool {
        let (mut narrower, mut extent) = (self.run, self.run);
        for (count, stride) in self.loops.iter().rev() {
            let longer =
                count.checked_sub(1).and_then(|turns| turns.checked_mul(*stride)?.checked_add(extent));
            let (Some(longer), Some(more)) = (longer, narrower.checked_mul(*count)) else { return false };
            if *stride < extent {
                return false;
            }
            (narrower, extent) = (more, longer);
        }
        self.run > 0 && self.loops.len() <= MOST_LOOPS && extent <= self.bytes
    }
}

impl Index {
    /// Reads the text form.
    ///
    /// # Errors
    /// What is wrong with it, in words: it may come from anywhere.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (body, digest) = text
            .strip_suffix('\n')
            .and_then(|text| text.rsplit_once("\nsha256 "))
            .map(|(body, digest)| (format!("{body}\n"), digest))
            .ok_or("it does not end in a line `sha256 DIGEST`: it is cut off")?;
        let mut hash = Sha256::new();
        hash.update(body.as_bytes());
        if hash.finish() != digest {
            return Err("its last line is not the SHA-256 of the lines before it: it was altered".into());
        }
        let mut lines = body.lines();
        let first = lines.next().unwrap_or_default();
        if first != HEADER {
            return Err(format!("its first line is `{first}`, not `{HEADER}`"));
        }
        let mut index = Index::default();
        for (line, number) in lines.zip(2..) {
            index.line(line).map_err(|what| format!("line {number}, `{line}`: {what}"))?;
        }
        index.check()?;
        Ok(index)
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').ok_or("there is nothing behind its first word")?;
        if word == "subnet" {
            self.subnets.push(Subnet { name: rest.into(), ..Subnet::default() });
            return Ok(());
        }
        let subnet = self.subnets.last_mut().ok_or("it stands before any subnet")?;
        match word {
            "chunk" => {
                let (bytes, sha256, name) = entry(rest)?;
                subnet.chunks.push(Chunk { name, bytes, sha256 });
            }
            "file" => {
                let (bytes, sha256, path) = entry(rest)?;
                subnet.files.push(FileEntry { path, bytes, sha256, pieces: Vec::new() });
            }
            "own" | "weave" => {
                let file = subnet.files.last_mut().ok_or("it stands before any file")?;
                file.pieces.push(if word == "own" { Piece::Own(number(rest)?) } else { weave(rest)? });
            }
            _ => return Err("its first word is none of subnet, chunk, file, own, weave".into()),
        }
        Ok(())
    }

    /// Whether everything adds up and nothing leads out of a folder.
    fn check(&self) -> Result<(), String> {
        let mut names = BTreeSet::new();
        let mut narrower: Option<&Subnet> = None;
        for subnet in &self.subnets {
            let within = |what: String| format!("subnet {}: {what}", subnet.name);
            if !is_plain(&subnet.name) || !names.insert(&subnet.name) {
                return Err(within("its name is no plain name, or it is there twice".into()));
            }
            for chunk in &subnet.chunks {
                if !is_plain(&chunk.name) || !names.insert(&chunk.name) {
                    return Err(within(format!("`{}` is no plain name, or it is there twice", chunk.name)));
                }
            }
            let mut paths = BTreeSet::new();
            let mut own = 0u64;
            for file in &subnet.files {
                if !is_inside(&file.path) || !paths.insert(&file.path) {
                    return Err(within(format!(
                        "`{}` leads out of the folder, or is there twice",
                        file.path
                    )));
                }
                let used = file.check(narrower).map_err(|what| within(format!("{}: {what}", file.path)))?;
                own = own.checked_add(used).ok_or_else(|| within("it is too large".into()))?;
            }
            let there = subnet.chunks.iter().try_fold(0u64, |sum, chunk| sum.checked_add(chunk.bytes));
            if there != Some(own) {
                return Err(within(format!(
                    "its files need {own} bytes of its chunks, which have not as many"
                )));
            }
            narrower = Some(subnet);
        }
        Ok(())
    }
}

impl FileEntry {
    /// The own bytes that it needs.
    fn check(&self, narrower: Option<&Subnet>) -> Result<u64, String> {
        let (mut bytes, mut own) = (0u64, 0u64);
        for piece in &self.pieces {
            if let Piece::Weave(weave) = piece {
                if !weave.is_sound() {
                    return Err("the runs of a weave do not fit into it".into());
                }
                let file = narrower.and_then(|narrower| narrower.files.get(weave.file));
                let there = file.map_or(0, |file| file.bytes);
                let end = weave.offset.checked_add(weave.narrower());
                if end.is_none_or(|end| end > there) {
                    return Err("a weave needs bytes that no narrower subnet has".into());
                }
            }
            bytes = bytes.checked_add(piece.bytes()).ok_or("it is too large")?;
            own += piece.own();
        }
        match bytes == self.bytes {
            true => Ok(own),
            false => Err(format!("its pieces have {bytes} bytes, not {}", self.bytes)),
        }
    }
}

/// `BYTES SHA256 NAME`; the name may have blanks.
fn entry(rest: &str) -> Result<(u64, String, String), String> {
    let mut words = rest.splitn(3, ' ');
    let (Some(bytes), Some(sha256), Some(name)) = (words.next(), words.next(), words.next()) else {
        return Err("it has no length, digest and name".into());
    };
    let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if sha256.len() != 64 || !sha256.bytes().all(hexadecimal) {
        return Err(format!("`{sha256}` is no SHA-256"));
    }
    Ok((number(bytes)?, sha256.into(), name.into()))
}

/// `FILE OFFSET BYTES RUN COUNTxSTRIDE ..`
fn weave(rest: &str) -> Result<Piece, String> {
    let mut words = rest.split(' ');
    let mut next = || number(words.next().ok_or("it has fewer than four numbers")?);
    let (file, offset, bytes, run) = (next()?, next()?, next()?, next()?);
    let turn = |word: &str| {
        let (count, stride) = word.split_once('x').ok_or_else(|| format!("`{word}` is not COUNTxSTRIDE"))?;
        match (number(count)?, number(stride)?) {
            (0, _) | (_, 0) => Err(format!("`{word}` is an empty loop")),
            turn => Ok(turn),
        }
    };
    let loops = words.map(turn).collect::<Result<_, String>>()?;
    let file = usize::try_from(file).map_err(|_| format!("there is no file {file}"))?;
    Ok(Piece::Weave(Weave { file, offset, bytes, run, loops }))
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("`{word}` is no number"))
}

fn is_plain(name: &str) -> bool {
    is_inside(name) && !name.contains('/')
}

fn is_inside(path: &str) -> bool {
    let normal = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    let odd = |name: &str| name.is_empty() || name == "." || name == "..";
    normal && !path.split('/').any(odd) && !path.contains(['\\', '\0', '\n', '\r'])
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{HEADER}\n");
        for subnet in &self.subnets {
            text += &format!("subnet {}\n", subnet.name);
            for Chunk { name, bytes, sha256 } in &subnet.chunks {
                text += &format!("chunk {bytes} {sha256} {name}\n");
            }
            for FileEntry { path, bytes, sha256, pieces } in &subnet.files {
                text += &format!("file {bytes} {sha256} {path}\n");
                pieces.iter().for_each(|piece| text += &format!("{piece}\n"));
            }
        }
        let mut hash = Sha256::new();
        hash.update(text.as_bytes());
        writeln!(f, "{text}sha256 {}", hash.finish())
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Piece::Own(bytes) => write!(f, "own {bytes}"),
            Piece::Weave(Weave { file, offset, bytes, run, loops }) => {
                write!(f, "weave {file} {offset} {bytes} {run}")?;
                loops.iter().try_for_each(|(count, stride)| write!(f, " {count}x{stride}"))
            }
        }
    }
}
