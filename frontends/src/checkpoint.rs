//! A part's checkpoint while a frontend reads it: every tensor is asked for, or named as ignored.

use std::collections::{BTreeMap, BTreeSet};

use snapc_ir::{Builder, DType, Dim, Error, Result, ValueId, Weight, shape_text};
use snapc_weights::Store;

/// How many tensors of each list an error names.
const NAMED: usize = 8;

/// Hands out weights by name and keeps account of them.
pub struct Checkpoint<'a> {
    store: &'a Store,
    /// Put before every name that is asked for.
    prefix: String,
    read: BTreeSet<String>,
    ignored: Vec<(&'static str, &'static str)>,
    missing: BTreeMap<String, String>,
    wrong: BTreeMap<String, String>,
}

impl<'a> Checkpoint<'a> {
    /// An account of the tensors of `store`, all of whose names start with `prefix`.
    pub fn new(store: &'a Store, prefix: &str) -> Self {
        Checkpoint {
            store,
            prefix: prefix.to_string(),
            read: BTreeSet::new(),
            ignored: Vec::new(),
            missing: BTreeMap::new(),
            wrong: BTreeMap::new(),
        }
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.store.region(&self.full(name)).is_some()
    }

    /// The sizes of a tensor.
    pub fn shape(&self, name: &str) -> Option<&'a [usize]> {
        self.store.region(&self.full(name)).map(|region| region.shape.as_slice())
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Says that tensors whose names start so are not read, and why.
    pub fn ignore(&mut self, start: &'static str, reason: &'static str) {
        self.ignored.push((start, reason));
    }

    /// The weight of that name with these axes. Where the checkpoint has it not, or with other sizes, that is noted and the import
    /// goes on, so that [`Checkpoint::finish`] can say all at once.
    ///
    /// # Errors
    /// If two recipes have one name.
    pub fn weight(&mut self, b: &mut Builder, name: &str, dims: Vec<Dim>) -> Result<ValueId> {
        let full = self.full(name);
        let expected: Vec<usize> = dims.iter().map(Dim::total).collect();
        let dtype = match (self.store.region(&full), self.store.foreign_type(&full)) {
            (Some(region), _) if region.shape != expected => {
                let (found, expected) = (shape_text(&region.shape), shape_text(&expected));
                self.wrong.insert(full.clone(), format!("is {found}, expected {expected}"));
                DType::F32
            }
            (Some(region), _) if !region.dtype.is_float() => {
                self.wrong
                    .insert(full.clone(), format!("is of type {}, expected floating point", region.dtype));
                DType::F32
            }
            (Some(region), _) => region.dtype,
            (None, Some(dtype)) => {
                self.wrong.insert(full.clone(), format!("is of type {dtype}, expected f32, f16 or bf16"));
                DType::F32
            }
            (None, None) => {
                self.missing.insert(full.clone(), format!("expected {}", shape_text(&expected)));
                DType::F32
            }
        };
        self.read.insert(full.clone());
        b.weight(Weight::tensor(&full, dtype, dims))
    }

    /// Ends the account. Gives the names of the ignored tensors.
    ///
    /// # Errors
    /// The missing, the unexpected and the wrongly shaped tensors, as three lists; `config` names the file that asked for them.
    pub fn finish(self, config: &str) -> Result<Vec<String>> {
        let is_ignored = |name: &str| {
            let own = name.strip_prefix(self.prefix.as_str()).unwrap_or(name);
            self.ignored.iter().any(|(start, _)| own.starts_with(start))
        };
        let unread = self.store.names().filter(|name| !self.read.contains(*name));
        let (ignored, unexpected): (Vec<&str>, Vec<&str>) = unread.partition(|name| is_ignored(name));
        if self.missing.is_empty() && self.wrong.is_empty() && unexpected.is_empty() {
            return Ok(ignored.into_iter().map(str::to_string).collect());
        }
        let missing: Vec<String> =
            self.missing.iter().map(|(name, what)| format!("{name} ({what})")).collect();
        let wrong: Vec<String> = self.wrong.iter().map(|(name, what)| format!("{name} {what}")).collect();
        let unexpected: Vec<String> = unexpected.into_iter().map(str::to_string).collect();
        let lists = [("missing", missing), ("unexpected", unexpected), ("of another shape or type", wrong)];
        let counts: Vec<String> = lists
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(what, list)| format!("{} {what}", list.len()))
            .collect();
        let files: Vec<String> = self.store.files().map(|file| file.display().to_string()).collect();
        let mut message =
            format!("the tensors of {} do not fit {config}: {}", files.join(", "), counts.join(", "));
        for (what, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
            message += &format!("\n  {what}:");
            list.iter().take(NAMED).for_each(|line| message += &format!("\n    {line}"));
            if list.len() > NAMED {
                message += &format!("\n    and {} more", list.len() - NAMED);
            }
        }
        Err(Error::input(message).help(format!("do these weights belong to this {config}?")))
    }
}
